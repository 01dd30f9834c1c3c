"""Small models of several kinds, trained a little, and data that have shifted since."""

import numpy as np
import torch

from rlhf_tune_integrations.pytorch import TorchTrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 1, 6, 6)).astype(np.float32)
Y = (X[:, 0, :3].sum((1, 2)) > X[:, 0, 3:].sum((1, 2))).astype(np.int64)


def cnn() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.BatchNorm2d(4, affine=False),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 2),
    )


def torch_trainer(model: torch.nn.Module | None = None, rate: float = 1e-2) -> TorchTrainer:
    model = model or cnn()
    return TorchTrainer(
        model,
        torch.optim.Adam(model.parameters(), rate, weight_decay=1e-3),
        torch.nn.functional.cross_entropy,
        (X[:40], Y[:40]),
        (X[40:], Y[40:]),
        batch_size=8,
        metrics=("accuracy",),
        seed=0,
    )
