"""Studies in which trials fail, violate by much, or share no parameter: they go on, and learn."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.errors import InvalidInputError

Objective = Callable[[optuna.Trial], float]

pytestmark = pytest.mark.usefixtures("_quiet")


@pytest.fixture
def _quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)


def asked(trial: optuna.Trial) -> tuple[float, int]:
    rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    return rate, trial.suggest_int("batch_size", 16, 256, log=True)


def bowl(rate: float, size: int) -> float:
    return (math.log10(rate) + 2.7) ** 2 + 0.3 * (math.log2(size) - 5) ** 2


def diverges(trial: optuna.Trial) -> float:
    """NaN above a learning rate of 1e-3, near which the best lies."""
    rate, size = asked(trial)
    return math.nan if rate > 1e-3 else bowl(rate, size)


def runs_out_of_memory(trial: optuna.Trial) -> float:
    """Above a batch size of 64; larger batches would be better."""
    rate, size = asked(trial)
    if size > 64:
        raise MemoryError
    return (math.log10(rate) + 2.7) ** 2 - 0.1 * math.log2(size)


def failures(sampler: Any, objective: Objective, trials: int) -> int:
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, trials, catch=(MemoryError,))
    return sum(t.state == optuna.trial.TrialState.FAIL for t in study.trials)


@pytest.mark.parametrize(
    ("objective", "trials"),
    [(diverges, 20), (runs_out_of_memory, 40)],
    ids=["diverges", "out of memory"],
)
def test_failures_teach_at_least_twice_as_well_as_tpe(objective: Objective, trials: int) -> None:
    seeds = range(3)
    ours = np.mean([failures(DQNSampler(seed=s), objective, trials) for s in seeds])
    tpe = optuna.samplers.TPESampler
    theirs = np.mean([failures(tpe(seed=s), objective, trials) for s in range(8)])
    print(f"{objective.__name__}: {ours:.1f} of {trials} fail, with TPE {theirs:.1f}")
    assert ours <= theirs / 2


@pytest.mark.parametrize("by", [0.3, 0.5, 1.0, 30.0, 1e9])
def test_a_first_point_that_violates_by_much_ends_nothing(by: float) -> None:
    def objective(trial: optuna.Trial) -> float:
        rate, size = asked(trial)
        trial.set_constraint("ok", by if rate > 1e-4 else -by)  # a quarter of the space is safe
        return (math.log10(rate) + 4.5) ** 2 + size / 1000

    study = optuna.create_study(sampler=DQNSampler(seed=0))
    study.optimize(objective, n_trials=25)
    assert len(study.trials) == 25
    assert sum(t.constraints["ok"] <= 0 for t in study.trials) > 15


def test_a_long_constrained_study_neither_repeats_for_ever_nor_forgets() -> None:
    def objective(trial: optuna.Trial) -> float:
        rate, size = asked(trial)
        trial.set_constraint("c", 0.2 - 0.1 * abs(math.log10(rate) + 1))
        return bowl(rate, size) + 0.1

    study = optuna.create_study(sampler=DQNSampler(seed=0))
    study.optimize(objective, n_trials=100)
    points = {tuple(t.params.values()) for t in study.trials}
    assert len(points) > 80
    found = study.sampler.recommend(study)
    best = min(t.value for t in study.trials if t.constraints["c"] <= 0)
    assert bowl(found["lr"], found["batch_size"]) + 0.1 < best + 0.1


def conditional(trial: optuna.Trial) -> float:
    which = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    return trial.suggest_float(f"lr_{which}", 1e-5, 1.0, log=True)


def categorical(trial: optuna.Trial) -> float:
    trial.set_constraint("c", -0.1)
    return len(trial.suggest_categorical("optimizer", ["sgd", "adam", "rmsprop"]))


def nothing_at_all(trial: optuna.Trial) -> float:
    return 0.0


@pytest.mark.parametrize("objective", [conditional, categorical, nothing_at_all])
@pytest.mark.filterwarnings("ignore:the study ends here")
def test_spaces_without_a_common_ordered_parameter(
    objective: Objective, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="rlhf_tune.study.sampler"):
        study = optuna.create_study(sampler=DQNSampler(seed=0))
        study.optimize(objective, n_trials=8)
    assert len(study.trials) >= 3
    study.sampler.explain(study)
    study.sampler.risk(study)
    assert study.sampler.recommend(study) == study.best_params or objective is not categorical


@pytest.mark.parametrize("workers", [1, 8])
def test_workers_repeat_no_point_that_is_running_elsewhere(workers: int) -> None:
    study, rng = optuna.create_study(sampler=DQNSampler(seed=0)), np.random.default_rng(0)
    for _ in range(80 // workers):
        trials = [study.ask() for _ in range(workers)]
        points = [asked(trial) for trial in trials]
        assert len(set(points)) == workers
        for trial, (rate, size) in zip(trials, points, strict=True):
            study.tell(trial, bowl(rate, size) + 0.02 * rng.standard_normal())


OPTIONS: list[Mapping[str, Any]] = [
    {"budget": "x"},
    {"budget": 2.5},
    {"budget": 0},
    {"seed": -1},
    {"seed": 1.5},
    {"confidence": "x"},
    {"confidence": math.nan},
    {"price": "x"},
    {"price": math.nan},
    {"price": math.inf},
    {"max_unsafe": -1},
    {"max_unsafe": True},
    {"policy": 3},
    {"roles": "lr"},
    {"start": [1]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_argument_that_makes_no_sense_is_refused_at_once(options: Mapping[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, but got"):
        DQNSampler(**options)


EXTREMES: dict[str, Objective] = {
    "results of 1e195": lambda t: t.suggest_float("lr", 1e-5, 1e-1, log=True) * 1e200,
    "results of 1e-300": lambda t: t.suggest_float("lr", 1e-5, 1e-1, log=True) * 1e-298,
    "one of 1e300": lambda t: 1e300 if t.suggest_float("x", 0, 1) > 0.6 else t.params["x"],
    "infinite results": lambda t: math.inf if t.suggest_float("x", 0, 1) > 0.6 else t.params["x"],
    "600 decades": lambda t: math.log10(t.suggest_float("x", 1e-300, 1e300, log=True)),
    "integers to 2**80": lambda t: t.suggest_int("x", 0, 2**80) * 1e-9,
    "integers to 2**70, log": lambda t: math.log(t.suggest_int("x", 1, 2**70, log=True)),
    "a tiny range": lambda t: t.suggest_float("x", 1.0, 1.0 + 1e-15),
    "one value": lambda t: t.suggest_int("x", 3, 3) + t.suggest_float("y", 0, 1),
    "a batch size of 0": lambda t: t.suggest_int("batch_size", 0, 64),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str) -> None:
    study = optuna.create_study(sampler=DQNSampler(seed=0))
    study.optimize(EXTREMES[name], n_trials=12)
    assert len(study.trials) == 12
    study.sampler.recommend(study)
    study.sampler.explain(study)


def test_a_range_whose_width_is_infinite_is_refused() -> None:
    study = optuna.create_study(sampler=DQNSampler(seed=0))
    with pytest.raises(InvalidInputError, match="the width of a range must be finite"):
        study.optimize(lambda t: t.suggest_float("x", -1e308, 1e308), n_trials=2)
