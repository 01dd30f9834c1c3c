"""Studies under constraints: risk is limited, and what is recommended was certified."""

import math
import warnings

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from rlhf_tune import CannotCertify, DQNSampler
from tests.study.bowl import BATCH, LR, loss, objective, study, with_constraint


def test_the_recommendation_is_feasible_and_fewer_trials_are_unsafe() -> None:
    unsafe = {}
    for confidence in (0.0, 0.5):
        s = study(seed=1, confidence=confidence, price=None)
        s.optimize(with_constraint, n_trials=25)
        unsafe[confidence] = sum(t.constraints["robustness"] > 0 for t in s.trials)
        assert s.sampler.recommend(s)["lr"] < 3.3e-3
    assert unsafe[0.5] < unsafe[0.0]


def test_an_unchecked_trial_is_never_recommended() -> None:
    s = study()
    s.add_trial(
        create_trial(
            params={"lr": 1e-2, "batch_size": 128},
            distributions={"lr": LR, "batch_size": BATCH},
            value=0.0,
        )
    )
    s.optimize(with_constraint, n_trials=5)
    assert s.best_trial.number == 0  # Optuna fails open
    assert s.sampler.recommend(s) != s.trials[0].params


def test_a_constraint_seen_once_is_required_of_all() -> None:
    s = study()
    s.optimize(with_constraint, n_trials=4)

    def second(trial: optuna.Trial) -> float:
        value = with_constraint(trial)
        trial.set_constraint("leakage", -1.0)
        return value + 10

    s.enqueue_trial({"lr": 1e-4, "batch_size": 32})
    s.optimize(second, n_trials=1)
    assert s.sampler.recommend(s) == s.trials[4].params


def test_an_untrusted_measurement_is_not_feasible() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_constraint("robustness", math.inf if trial.number % 2 else -0.1)
        return value - 100 * (trial.number % 2)

    s = study()
    s.optimize(f, n_trials=8)
    recommended = s.sampler.recommend(s)
    assert recommended in [t.params for t in s.trials if t.number % 2 == 0]


def test_nothing_feasible_cannot_be_certified() -> None:
    def f(trial: optuna.Trial) -> float:
        trial.set_constraint("robustness", 0.3)
        return objective(trial)

    s = study()
    s.optimize(f, n_trials=20)
    assert len({tuple(t.params.values()) for t in s.trials}) == 20
    with pytest.raises(CannotCertify, match="robustness") as caught:
        s.sampler.recommend(s)
    message = str(caught.value)
    assert f"of {len(s.trials)} complete trials 0 were not fully checked" in message
    assert (
        "trial 0 at {'lr': 0.001, 'batch_size': 32}, misses the bound of 'robustness' by 0.3"
        in message
    )
    assert "start from a safe point, lower the threshold, or measure with more" in message


def test_an_unsafe_start_is_left_for_a_safe_point() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_constraint("robustness", 0.3 * (math.log10(trial.params["lr"]) + 3.5))
        return value

    s = study(seed=2)
    s.optimize(f, n_trials=20)
    assert s.trials[0].constraints["robustness"] > 0
    assert s.sampler.recommend(s)["lr"] < 10**-3.5


def test_a_higher_price_takes_less_risk() -> None:
    unsafe = []
    for price in (0.0, 0.1, 1.0):
        studies = [study(seed=seed, price=price, confidence=0) for seed in range(3)]
        for s in studies:
            s.optimize(with_constraint, n_trials=20)
        unsafe.append(sum(t.constraints["robustness"] > 0 for s in studies for t in s.trials))
    assert unsafe[0] > unsafe[1] >= unsafe[2]


def test_beside_a_lone_safe_point_it_mostly_stays() -> None:
    def f(trial: optuna.Trial) -> float:  # the start just keeps the bound, nothing else does
        value = objective(trial)
        default = trial.params == {"lr": 1e-3, "batch_size": 32}
        trial.set_constraint("robustness", -0.01 if default else 0.3)
        return value

    s = study()
    with pytest.warns(UserWarning, match="no untried point is worth its risk"):
        s.optimize(f, n_trials=30)
    violations = [t.constraints["robustness"] > 0 for t in s.trials]
    assert sum(violations) < 10
    assert len(s.trials) < 30  # nothing is worth its risk, and repeats agreed
    assert s.sampler.recommend(s) == {"lr": 1e-3, "batch_size": 32}


def test_a_spent_unsafe_budget_ends_the_study() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_constraint("robustness", -0.1 if trial.number == 0 else 0.1)
        return value

    s = study(max_unsafe=2)
    with pytest.warns(UserWarning, match="max_unsafe"):
        s.optimize(f, n_trials=30)
    violations = [t.constraints["robustness"] > 0 for t in s.trials]
    assert sum(violations[:-1]) == 2
    assert s.trials[-1].params == s.trials[0].params


# Constraints that no other task is known of


COSTS = {
    "a step of 1": lambda bad, over: 1.0 if bad else -1.0,
    "a step of 1,000": lambda bad, over: 1000.0 if bad else -1000.0,
    "a step of .01": lambda bad, over: 0.01 if bad else -0.01,
    "a flag": lambda bad, over: float(bad),
    "far more above than below": lambda bad, over: 250.0 if bad else -0.5,
    "milliseconds": lambda bad, over: 1000.0 * over,
    "bytes": lambda bad, over: 3e9 * over,
    "untrusted": lambda bad, over: math.inf if bad else -0.2,
}


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("price", [0.05, None])
def test_an_unsafe_start_finds_a_feasible_trial_whatever_the_cost(
    cost: str, price: float | None
) -> None:
    def f(trial: optuna.Trial) -> float:
        decades = math.log10(trial.suggest_float("lr", 1e-6, 1e-1, log=True))
        trial.suggest_categorical("batch_size", [16, 32, 64])
        trial.set_constraint("diverged", COSTS[cost](decades > -4.3, decades + 4.3))
        return (decades + 5) ** 2

    s = study(price=price)
    s.optimize(f, n_trials=20)
    feasible = [t.constraints["diverged"] <= 0 for t in s.trials]
    assert feasible.index(True) < 6
    assert sum(feasible) >= 14
    assert abs(math.log10(s.sampler.recommend(s)["lr"]) + 5) < 0.3


def test_the_unit_of_a_cost_changes_nothing() -> None:
    def points(unit: float) -> list[object]:
        def f(trial: optuna.Trial) -> float:
            value = objective(trial)
            trial.set_constraint("time", unit * (math.log10(trial.params["lr"]) + 2.5))
            return value

        s = study()
        s.optimize(f, n_trials=12)
        return [t.params for t in s.trials]

    assert points(1.0) == points(1024.0)


def test_while_nothing_is_feasible_no_point_is_repeated() -> None:
    def f(trial: optuna.Trial) -> float:
        trial.set_constraint("size", 5.0)
        return trial.suggest_float("lr", 1e-5, 1e-1, log=True)

    s = study()
    s.optimize(f, n_trials=30)
    assert len({t.params["lr"] for t in s.trials}) == 30


def test_a_long_study_does_not_forget_its_best_point() -> None:
    s = study()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for trials in (40, 100):
            s.optimize(with_constraint, n_trials=trials - len(s.trials))
            chosen = s.sampler.recommend(s)
            found.append(loss(float(chosen["lr"]), int(chosen["batch_size"])))
    assert found[1] <= found[0] + 0.01
    points = [tuple(t.params.values()) for t in s.trials]
    assert max(points.count(point) for point in points) <= 3


@pytest.mark.parametrize("seed", range(6))
def test_a_safe_plateau_does_not_hold_a_study(seed: int) -> None:
    """Far below the bound all rates are safe and equally useless, but for noise."""
    noise = np.random.default_rng(seed)

    def forgets(trial: optuna.Trial) -> float:
        decade = math.log10(trial.suggest_float("lr", 1e-6, 1.0, log=True))
        trial.suggest_int("batch_size", 8, 256, log=True)
        trial.set_constraint("forgotten", 1.0 if decade > -3.1 else -1.0)
        useful = 1 / (1 + 10 ** (-1.6 * (decade + 3.9)))
        loss = 0.6 * (1 - useful) if decade < -2 else 0.05 + 1.5 * (decade + 2)
        return loss + 0.008 * noise.normal()

    s = optuna.create_study(sampler=DQNSampler(seed=seed))
    s.enqueue_trial({"lr": 1e-3, "batch_size": 32})
    s.optimize(forgets, n_trials=15)
    assert s.trials[1].params["lr"] < 1e-3  # of two places that are equally safe the lower rate
    assert min(t.value for t in s.trials if t.constraints["forgotten"] < 0) < 0.05
