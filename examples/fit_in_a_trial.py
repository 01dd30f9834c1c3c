"""`fit` inside a trial: the sampler chooses where a run starts, and the run moves the rest.

`DQNSampler` chooses what is fixed for the length of a run, the width of a PyTorch network, its
dropout and the batch size. The learning rate is no parameter of the study: each run looks for it
and moves it on the way, under a floor for the accuracy under an FGSM attack. Run it:

    python examples/fit_in_a_trial.py
    python examples/fit_in_a_trial.py --trials 3 --epochs 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune_integrations.pytorch import fit


def network(width: int, dropout: float) -> torch.nn.Module:
    """A fresh network."""
    torch.manual_seed(0)
    hidden = torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Dropout(dropout)
    return torch.nn.Sequential(*hidden, torch.nn.Linear(width, 10))


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, and print what to start from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
    robust = RobustAccuracy(x_val, y_val, eps=0.05, at_least=0.6)
    loss_fn = torch.nn.functional.cross_entropy

    def objective(trial: optuna.Trial) -> float:
        batch_size = trial.suggest_int("batch_size", 16, 128, log=True)
        width = trial.suggest_int("width", 16, 256, log=True)
        model = network(width, trial.suggest_float("dropout", 0.0, 0.5))
        optimizer = torch.optim.Adam(model.parameters())
        # A run without a safe state leaves the model at its best one, and the study learns of it.
        with suppress(CannotCertify):
            fit(
                model,
                optimizer,
                loss_fn,
                (x, y),
                (x_val, y_val),
                epochs=args.epochs,
                batch_size=batch_size,
                constraints=[robust],
                verify_every=4,
                seed=0,
                verbose=0,
            )
        measurement = robust(model)
        trial.set_constraint(measurement.name, measurement.cost)
        with torch.no_grad():
            return float(loss_fn(model.eval()(torch.as_tensor(x_val)), torch.as_tensor(y_val)))

    study = optuna.create_study(sampler=DQNSampler(seed=0, budget=args.trials))
    study.optimize(objective, n_trials=args.trials)
    try:
        print("start from", study.sampler.recommend(study))
    except CannotCertify as exc:
        print("nothing can be recommended:", exc)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
