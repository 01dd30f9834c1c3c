"""Where `DQNSampler` starts: until a trial is complete."""

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from rlhf_tune.errors import InvalidInputError
from tests.study.bowl import BATCH, LR, objective, study


def test_starts_at_the_default_point() -> None:
    s = study()
    s.optimize(objective, n_trials=1)
    assert s.trials[0].params == {"lr": 1e-3, "batch_size": 32}


def test_starts_where_told() -> None:
    s = study(start={"lr": 0.02, "batch_size": 100})
    s.optimize(objective, n_trials=1)
    assert s.trials[0].params == {"lr": 0.02, "batch_size": 100}


def test_other_parameters_start_mid_range_and_clipped_to_it() -> None:
    def f(trial: optuna.Trial) -> float:
        trial.suggest_float("momentum", 0, 1)
        trial.suggest_float("lr", 1e-6, 1e-4, log=True)
        trial.suggest_categorical("batch_size", [64, 256, 128])
        return 0.0

    s = study()
    s.optimize(f, n_trials=1)
    assert s.trials[0].params == {"momentum": 0.5, "lr": 1e-4, "batch_size": 64}


def first_batch(size: int, *, known_late: bool = False, **kwargs: object) -> list[dict[str, Any]]:
    """The points of trials that were asked for before any had a result."""
    s = study(**kwargs)
    if not known_late:
        return [s.ask({"lr": LR, "batch_size": BATCH}).params for _ in range(size)]
    asked = [s.ask() for _ in range(size)]
    for name, distribution in (("lr", LR), ("batch_size", BATCH)):
        for trial in asked:
            trial._suggest(name, distribution)
    return [trial.params for trial in asked]


@pytest.mark.parametrize("known_late", [False, True])
def test_a_first_batch_spreads_over_the_rates(known_late: bool) -> None:
    points = first_batch(5, known_late=known_late)
    assert points[0] == {"lr": 1e-3, "batch_size": 32}
    rates = sorted(math.log10(p["lr"]) for p in points)
    assert rates[0] <= -3.5
    assert rates[-1] >= -1.5
    assert np.diff(rates).min() >= 0.25


@pytest.mark.parametrize("known_late", [False, True])
def test_a_first_batch_comes_nearer_to_the_best_than_random_ones(known_late: bool) -> None:
    rng = np.random.default_rng(0)
    ours, random = [], []
    for best in (-4.5, -3.5, -2.5, -1.5):
        batch = first_batch(8, known_late=known_late)
        ours.append(min(abs(math.log10(p["lr"]) - best) for p in batch))
        drawn = np.abs(rng.uniform(-5, -1, size=(200, 7)) - best).min(axis=1)
        random.append(np.minimum(drawn, abs(-3 - best)).mean())
    assert np.mean(ours) < np.mean(random)


def test_without_a_prior_a_first_batch_goes_to_neighbours_of_the_start() -> None:
    for p in first_batch(4, policy="no_prior")[1:]:
        assert 0 < abs(math.log10(p["lr"]) + 3) <= 1.05


def test_a_first_batch_stays_near_the_start_in_what_no_prior_knows() -> None:
    s = study()
    depth = IntDistribution(1, 1000)
    points = [s.ask({"lr": LR, "depth": depth}).params for _ in range(4)]
    assert all(abs(p["depth"] - points[0]["depth"]) < 400 for p in points)
    assert max(p["lr"] for p in points) > 10 * points[0]["lr"]


def test_a_start_that_always_fails_is_left() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        return value if trial.params["lr"] < 1e-4 else math.nan

    s = study()
    s.optimize(f, n_trials=40)
    assert any(t.state == TrialState.COMPLETE for t in s.trials)


def test_an_enqueued_value_out_of_range_is_kept_and_projected() -> None:
    s = study()
    s.enqueue_trial({"lr": 0.5, "batch_size": 32})
    with pytest.warns(UserWarning, match="out of range"):
        s.optimize(objective, n_trials=1)
    s.optimize(objective, n_trials=6)
    assert s.trials[0].params["lr"] == 0.5
    assert all(1e-5 <= t.params["lr"] <= 1e-1 for t in s.trials[1:])


def test_an_enqueued_trial_is_the_start_of_a_batch() -> None:
    s = study()
    s.enqueue_trial({"lr": 1e-5, "batch_size": 512})
    points = [s.ask({"lr": LR, "batch_size": BATCH}).params for _ in range(3)]
    assert points[0] == {"lr": 1e-5, "batch_size": 512}
    assert len({tuple(p.items()) for p in points}) == 3


def test_trials_side_by_side_before_any_result_are_all_different() -> None:
    s = study()
    points = [s.ask({"lr": LR, "batch_size": BATCH}).params for _ in range(16)]
    assert len({tuple(p.items()) for p in points}) == 16
    s = study()
    asked = [s.ask() for _ in range(16)]  # their parameters are known later
    assert len({t.suggest_float("lr", 1e-5, 1e-1, log=True) for t in asked}) >= 14


@pytest.mark.parametrize("limit", [2e-4, 2e-3])
def test_failures_are_avoided_and_sooner_than_by_tpe(limit: float) -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        return value if trial.params["lr"] < limit else math.nan

    failed = []
    for sampler in (study().sampler, optuna.samplers.TPESampler(seed=0)):
        s = optuna.create_study(sampler=sampler)
        s.optimize(f, n_trials=20)
        failed.append(sum(t.state == TrialState.FAIL for t in s.trials))
    assert failed[0] <= 0.75 * failed[1]


def test_while_all_fail_each_goes_far_from_those_before() -> None:
    s = study()
    for _ in range(6):
        s.tell(s.ask({"lr": LR, "batch_size": BATCH}), state=TrialState.FAIL)
    rates = [math.log10(t.params["lr"]) for t in s.trials]
    assert rates[1] == pytest.approx(-5)  # as far as above, and safer
    assert rates[2] == pytest.approx(-1)
    assert len({tuple(t.params.items()) for t in s.trials}) == 6


def test_a_start_out_of_range() -> None:
    s = study(start={"lr": 7.0})
    with pytest.raises(InvalidInputError, match=r"`start` must lie within the range"):
        s.optimize(objective, n_trials=1)
