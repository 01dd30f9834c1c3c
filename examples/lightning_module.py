"""A Lightning module trained while a policy moves its learning rate, under a floor of robustness.

python examples/lightning_module.py
python examples/lightning_module.py --epochs 2 --at-least 0.1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L  # noqa: N812 - its own name
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from rlhf_tune import CannotCertify
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune_integrations.lightning import fit


class Digits(L.LightningModule):  # type: ignore[misc]
    """A module as anybody writes it: no schedule, and a logged `val_loss`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, 10]."""
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """The loss of a batch."""
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        """Log what states are judged by."""
        outputs = self(batch[0])
        self.log("val_loss", torch.nn.functional.cross_entropy(outputs, batch[1]))
        self.log("val_accuracy", (outputs.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer alone."""
        return torch.optim.Adam(self.parameters())


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--eps", type=float, default=0.03)
    parser.add_argument("--at-least", type=float, default=0.6)
    args = parser.parse_args(argv)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
    x, x_val, y, y_val = (torch.from_numpy(part) for part in parts)
    torch.manual_seed(0)
    module = Digits()
    train = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    validation = DataLoader(TensorDataset(x_val, y_val), batch_size=256)
    floor = RobustAccuracy(x_val.numpy(), y_val.numpy(), eps=args.eps, at_least=args.at_least)
    try:
        history = fit(module, train, validation, epochs=args.epochs, constraints=[floor])
    except CannotCertify as exc:
        print("nothing is handed back:", exc)
        return 1
    certified = history.certificate[floor.name]
    print(f"accuracy {max(history.history['val_accuracy']):.3f}, robust {certified.value:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
