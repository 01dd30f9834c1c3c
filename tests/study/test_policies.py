"""What the policies expect of a move."""

import dataclasses
import math

import numpy as np
import optuna
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from rlhf_tune import DQNSampler
from rlhf_tune.study.decision import Caution, judge
from rlhf_tune.study.expected_improvement import expected_improvement, outlook, without_outliers
from rlhf_tune.study.planning import ahead
from rlhf_tune.study.policies import POLICIES
from rlhf_tune.study.prior import shipped
from rlhf_tune.study.process import points_at
from rlhf_tune.study.risk import SafetyChecker, priced
from rlhf_tune.study.state import StudyState

q_values = POLICIES["default"].q

optuna.logging.set_verbosity(optuna.logging.ERROR)


def state(n: int, seed: int = 0) -> StudyState:
    """After so many trials of a bowl."""
    sampler = DQNSampler(policy="random", seed=seed)
    study = optuna.create_study(sampler=sampler)
    study.optimize(
        lambda t: (
            (math.log10(t.suggest_float("lr", 1e-5, 1e-1, log=True)) + 2) ** 2
            + t.suggest_int("batch_size", 16, 512, log=True) / 512
        ),
        n_trials=n,
    )
    return state_of(study)


def state_of(study: optuna.Study) -> StudyState:
    """Before the next trial."""
    rng = np.random.default_rng(len(study.trials))
    found = study.sampler._observe(study.sampler.history(study), rng)
    assert found is not None
    return found


@pytest.mark.parametrize(("mean", "deviation", "best"), [(0.0, 1.0, 0.0), (-1.0, 0.5, 1.0)])
def test_expected_improvement_equals_its_integral(
    mean: float, deviation: float, best: float
) -> None:
    integral, _ = quad(lambda v: (v - best) * norm.pdf(v, mean, deviation), best, best + 20)
    value = expected_improvement(np.array([mean]), np.array([deviation]), best)[0]
    assert value == pytest.approx(integral, rel=1e-6)


def test_expected_improvement_is_never_negative_and_grows_with_doubt() -> None:
    deviations = np.array([1e-6, 0.1, 1.0, 10.0])
    values = expected_improvement(np.full(4, -1.0), deviations, 0.0)
    assert (np.diff(values) > 0).all()
    assert (values >= 0).all()


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_scores_every_candidate(name: str) -> None:
    here = state(6)
    q = POLICIES[name].q(here)
    assert q.shape == (len(here.cells),)
    assert np.isfinite(q).all()


def test_performance_is_at_most_zero_and_keeps_the_order() -> None:
    here = state(12)
    performance = here.outlook.performance
    assert performance.max() == 0
    assert (np.diff(performance[np.argsort(here.history.values)]) >= 0).all()


def test_diverged_runs_do_not_stretch_the_scale() -> None:
    values = np.array([-0.3, -0.4, -1e4, np.nan, -0.5])
    np.testing.assert_allclose(without_outliers(values), [-0.3, -0.4, -1.3, np.nan, -0.5])
    np.testing.assert_array_equal(without_outliers(values[:1]), values[:1])
    np.testing.assert_array_equal(without_outliers(np.ones(3)), np.ones(3))


def test_a_prior_from_other_tasks_finds_a_usual_optimum_sooner() -> None:
    """At 10^-1.8 and a small batch, from the default; over 10 seeds, after two trials."""

    def best(policy: str, seed: int) -> float:
        study = optuna.create_study(sampler=DQNSampler(policy=policy, seed=seed))
        study.optimize(
            lambda t: min(
                1,
                0.25 * (math.log10(t.suggest_float("lr", 1e-7, 10, log=True)) + 1.8) ** 2
                + 0.1 * math.log10(t.suggest_int("batch_size", 8, 1024, log=True) / 16) ** 2,
            ),
            n_trials=2,
        )
        return study.best_value

    ours = np.mean([best("default", seed) for seed in range(10)])
    theirs = np.mean([best("no_prior", seed) for seed in range(10)])
    assert ours < 0.5 * theirs


def test_the_policy_finds_a_bowl_sooner_than_random_moves() -> None:
    """Over 20 bowls, by the mean of the best value after ten trials."""

    def best(policy: str, seed: int) -> float:
        study = optuna.create_study(sampler=DQNSampler(policy=policy, seed=seed))
        study.optimize(
            lambda t: (
                (math.log10(t.suggest_float("lr", 1e-5, 1, log=True)) + 1 + 0.1 * seed) ** 2
                + 0.1 * (math.log2(t.suggest_int("batch_size", 16, 512, log=True)) - 7) ** 2
            ),
            n_trials=10,
        )
        return study.best_value

    ours = np.array([best("default", seed) for seed in range(20)])
    theirs = np.array([best("random", seed) for seed in range(20)])
    error = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 20)
    assert ours.mean() + 2 * error < theirs.mean()


def test_the_price_rule() -> None:
    q, p_safe = np.array([0.5, 0.2, 0.2, 0.01]), np.array([0.9, 1.0, 0.5, 0.5])
    value = priced(q, p_safe, 0.1)
    np.testing.assert_allclose(value, [0.0, 0.2, 0.05, -0.045])  # "stay" is worth nothing


def test_while_nothing_is_feasible_the_likeliest_move_wins() -> None:
    here = state(8)
    p = np.linspace(0, 1, len(here.cells))
    lost = dataclasses.replace(
        here,
        history=dataclasses.replace(here.history, costs=np.ones((8, 1)), constraints=("c",)),
        p_safe=p,
    )
    value, allowed = judge(lost, POLICIES["default"], Caution(SafetyChecker()))
    np.testing.assert_allclose(value, p, atol=0.01)  # of two alike the lower rate
    assert not allowed[0]
    np.testing.assert_array_equal(allowed[1:], here.allowed[1:])


def test_a_parameter_that_does_nothing_is_found_out_and_all_ask_alike() -> None:
    """What counts how much is the posterior's own: covariances and predictions agree on it."""
    study = optuna.create_study(sampler=DQNSampler(policy="random", seed=1))
    study.optimize(
        lambda t: (
            (t.suggest_float("a", 0, 1) - 0.3) ** 2
            + 0.0 * t.suggest_float("b", 0, 1)
            + (math.log10(t.suggest_float("lr", 1e-5, 1e-1, log=True)) + 2) ** 2
        ),
        n_trials=25,
    )
    history = study.sampler.history(study)
    found = outlook(history, shipped("performance"))
    assert found.surrogate.relevance[1] < 1
    here = points_at(history, history.cells[:6], 0)
    variances = np.diag(found.surrogate.covariance(here))
    np.testing.assert_allclose(variances, found.surrogate.predict(here).deviation ** 2, rtol=1e-4)
    units = found.in_units(0, history.cells[:6]).mean
    np.testing.assert_allclose(units, found.surrogate.predict(here).mean)


def constrained(policy: str, n: int) -> optuna.Study:
    """A bowl whose better half is unsafe."""
    study = optuna.create_study(sampler=DQNSampler(policy=policy, seed=0))

    def objective(trial: optuna.Trial) -> float:
        decades = math.log10(trial.suggest_float("lr", 1e-5, 1, log=True))
        trial.set_constraint("c", 0.2 * (decades + 2))
        return 0.25 * (decades + 1.5) ** 2

    study.optimize(objective, n_trials=n)
    return study


def test_looking_ahead_values_what_a_move_shows() -> None:
    found = state_of(constrained("plan", 2))
    value = priced(q_values(found), found.p_safe, 0.05)
    gains = ahead(found, value, 0.05)
    assert gains[0] == 0
    assert (gains > 0).any()
    assert (gains[~found.allowed] == 0).all()
    assert np.isfinite(gains).all()


def test_a_plan_stays_as_safe_as_no_plan() -> None:
    unsafe = {
        policy: sum(t.constraints["c"] > 0 for t in constrained(policy, 12).trials)
        for policy in ("plan", "default")
    }
    assert unsafe["plan"] <= unsafe["default"] + 1
