"""Look at a study and at a training run: tables on the terminal, two pictures on request.

A study of a PyTorch network on handwritten digits under a floor for its accuracy under an FGSM
attack, then one training run under such a floor. Run it:

    python examples/looking.py --study docs/study.png --run docs/run.png
    python examples/looking.py --trials 5 --epochs 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import rlhf_tune
from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.plot import plot_run, plot_study
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune_integrations.pytorch import fit

images, labels = load_digits(return_X_y=True)
x, x_val, y, y_val = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
loss_fn = torch.nn.functional.cross_entropy


def network() -> torch.nn.Module:
    """A fresh network."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def studied(trials: int, epochs: int) -> optuna.Study:
    """A study of learning rate and batch size."""
    robust = RobustAccuracy(x_val, y_val, eps=0.05, at_least=0.75)

    def objective(trial: optuna.Trial) -> float:
        model, batch_size = network(), trial.suggest_int("batch_size", 16, 256, log=True)
        optimizer = torch.optim.Adam(
            model.parameters(), trial.suggest_float("lr", 1e-5, 1, log=True)
        )
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad()
                loss_fn(model(torch.as_tensor(x[rows])), torch.as_tensor(y[rows])).backward()
                optimizer.step()
        measurement = robust(model)
        trial.set_constraint(measurement.name, measurement.cost)
        with torch.no_grad():
            return float(loss_fn(model(torch.as_tensor(x_val)), torch.as_tensor(y_val)))

    study = optuna.create_study(study_name="digits", sampler=DQNSampler(seed=0, budget=trials))
    study.optimize(objective, n_trials=trials)
    return study


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, train, and show both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--study", type=Path, metavar="FILE.png", help="draw the study")
    parser.add_argument("--run", type=Path, metavar="FILE.png", help="draw the run")
    args = parser.parse_args(argv)
    study = studied(args.trials, args.epochs)
    with suppress(CannotCertify):
        print(study.sampler.recommendation(study), end="\n\n")
    print(rlhf_tune.explain(study).table().to_text(rows=5), end="\n\n")
    print(rlhf_tune.risk(study), end="\n\n")
    model = network()
    floor = RobustAccuracy(x_val, y_val, eps=0.05, at_least=0.65)
    try:
        history = fit(
            model,
            torch.optim.Adam(model.parameters()),
            loss_fn,
            (x, y),
            (x_val, y_val),
            epochs=2 * args.epochs,
            metrics=["accuracy"],
            constraints=[floor],
            seed=0,
            verbose=0,
        )
    except CannotCertify as exc:
        print(exc)
        history = exc.history
    print(history)
    if args.study:
        plot_study(study).savefig(args.study, dpi=90)
    if args.run:
        plot_run(history).savefig(args.run, dpi=80)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
