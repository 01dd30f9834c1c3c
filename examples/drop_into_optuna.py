"""Drop `DQNSampler` into an Optuna study: a PyTorch network on handwritten digits.

The study tunes learning rate and batch size for a low validation loss while the accuracy under
an FGSM attack keeps a floor. Run it:

    python examples/drop_into_optuna.py
    python examples/drop_into_optuna.py --trials 5 --epochs 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.safety import RobustAccuracy


def train(
    x: torch.Tensor, y: torch.Tensor, lr: float, batch_size: int, epochs: int
) -> torch.nn.Module:
    """An ordinary training loop; nothing in it knows of the tuning."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, and print what to use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    images, labels = load_digits(return_X_y=True)
    split = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
    x, x_val, y, y_val = (torch.as_tensor(part) for part in split)
    robust = RobustAccuracy(x_val.numpy(), y_val.numpy(), eps=0.05, at_least=0.6)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        batch_size = trial.suggest_int("batch_size", 16, 256, log=True)
        model = train(x, y, lr, batch_size, args.epochs)
        measurement = robust(model)
        trial.set_constraint(measurement.name, measurement.cost)
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(x_val), y_val))

    study = optuna.create_study(sampler=DQNSampler(seed=0, budget=args.trials))
    study.optimize(objective, n_trials=args.trials)
    try:
        print("use", study.sampler.recommend(study))
    except CannotCertify as exc:
        print("nothing can be recommended:", exc)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
