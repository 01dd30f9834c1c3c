"""Where `DQNSampler` starts: until a trial is complete."""

import math

import optuna
import pytest
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


def test_a_first_batch_goes_to_neighbours_of_the_start() -> None:
    s = study()
    points = [s.ask({"lr": LR, "batch_size": BATCH}).params for _ in range(4)]
    assert points[0] == {"lr": 1e-3, "batch_size": 32}
    for p in points[1:]:
        assert p != points[0]
        assert 0 < abs(math.log10(p["lr"]) + 3) <= 1.05


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
    assert all(p["lr"] < 1e-4 and p["batch_size"] > 64 for p in points[1:])
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
