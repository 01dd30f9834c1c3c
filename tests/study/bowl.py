"""Studies of a bowl over learning rate and batch size."""

import math

import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from rlhf_tune import DQNSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)

LR = FloatDistribution(1e-5, 1e-1, log=True)
BATCH = IntDistribution(16, 512, log=True)


def loss(lr: float, batch: int) -> float:
    """A bowl with its optimum at learning rate 1e-2, batch size 128."""
    return (math.log10(lr) + 2) ** 2 + 0.1 * (math.log2(batch) - 7) ** 2


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    return loss(lr, trial.suggest_int("batch_size", 16, 512, log=True))


def study(seed: int = 0, **kwargs: object) -> optuna.Study:
    return optuna.create_study(sampler=DQNSampler(seed=seed, **kwargs))


def params(study: optuna.Study) -> list[dict[str, object]]:
    return [t.params for t in study.trials]


def with_constraint(trial: optuna.Trial) -> float:
    """Rates above 3e-3 are unsafe, though the optimum lies at 1e-2."""
    value = objective(trial)
    trial.set_constraint("robustness", 0.2 * (math.log10(trial.params["lr"]) + 2.5))
    return value
