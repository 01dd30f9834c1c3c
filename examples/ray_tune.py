"""A study on Ray Tune whose trials are guarded runs that survive the death of their actor.

`Search` proposes width and batch size, each trial runs `fit` in an actor of its own: it moves the
learning rate on the way, keeps a floor under an FGSM attack, and writes the run to the trial's
folder after every stretch. An actor that dies is started again, and goes on from there. Run it:

    pip install 'rlhf-tune[ray]'
    python examples/ray_tune.py
    python examples/ray_tune.py --trials 2 --epochs 2
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from optuna.distributions import IntDistribution

from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune_integrations.ray import Search


def trainable(config: Mapping[str, Any]) -> None:
    """One trial, in an actor."""
    import numpy as np
    import torch
    from ray import tune
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from rlhf_tune.safety import RobustAccuracy
    from rlhf_tune_integrations.pytorch import fit

    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
    robust = RobustAccuracy(x_val, y_val, eps=0.05, at_least=0.6)
    torch.manual_seed(0)
    hidden = torch.nn.Linear(64, config["width"]), torch.nn.ReLU()
    model = torch.nn.Sequential(*hidden, torch.nn.Linear(config["width"], 10))
    with suppress(CannotCertify):  # then the study learns by how much the floor is missed
        fit(
            model,
            torch.optim.Adam(model.parameters()),
            torch.nn.functional.cross_entropy,
            (x, y),
            (x_val, y_val),
            epochs=config["epochs"],
            batch_size=config["batch_size"],
            constraints=[robust],
            verify_every=4,
            seed=0,
            verbose=0,
            checkpoint=Path(tune.get_context().get_trial_dir()) / "run",
        )
    measurement = robust(model)
    with torch.no_grad():
        outputs = model.eval()(torch.as_tensor(x_val))
        loss = torch.nn.functional.cross_entropy(outputs, torch.as_tensor(y_val))
    tune.report({"loss": float(loss), "constraints": {measurement.name: measurement.cost}})


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, and print what to use."""
    import ray
    from ray import tune

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    space = {
        "width": IntDistribution(16, 256, log=True),
        "batch_size": IntDistribution(16, 128, log=True),
    }
    search = Search(space, sampler=DQNSampler(seed=0), metric="loss", mode="min")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        tune.Tuner(
            trainable,
            param_space={"epochs": args.epochs},
            tune_config=tune.TuneConfig(
                search_alg=search, num_samples=args.trials, max_concurrent_trials=2
            ),
            run_config=tune.RunConfig(
                storage_path=mkdtemp(),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        ).fit()
    finally:
        ray.shutdown()
    try:
        print("use", search.recommend())
    except CannotCertify as exc:
        print("nothing can be recommended:", exc)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
