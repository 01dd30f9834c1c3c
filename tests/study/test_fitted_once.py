"""What a state carries is fitted once."""

import math

import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.study import mixture, risk, surrogate

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of trials that each posterior fitted so far was conditioned on."""
    seen: list[int] = []

    def counted(trials, values, **scales):  # type: ignore[no-untyped-def]
        seen.append(len(values))
        return surrogate.fit(trials, values, **scales)

    for module in (mixture, risk):
        monkeypatch.setattr(module, "fit", counted)
    return seen


def objective(constraints: int, trial: optuna.Trial) -> float:
    decades = math.log10(trial.suggest_float("lr", 1e-5, 1e-1, log=True))
    for k in range(constraints):
        trial.set_constraint(str(k), 0.2 * (decades + 2.5 - 0.2 * k))
    return (decades + 2) ** 2


@pytest.mark.parametrize("policy", ["default", "plan", "dqn", "no_prior"])
@pytest.mark.parametrize("constraints", [0, 1, 2])
def test_a_suggestion_fits_performance_and_each_constraint_once(
    constraints: int, policy: str, fits: list[int]
) -> None:
    study = optuna.create_study(sampler=DQNSampler(policy=policy, seed=0))
    study.optimize(lambda trial: objective(constraints, trial), n_trials=6)
    of_performance = 1 if policy == "no_prior" else 2  # the prior's list, and none of it
    each = of_performance + constraints
    assert fits == [trials for trials in range(1, 6) for _ in range(each)]
    fits.clear()
    study.sampler.explain(study)
    assert fits == [6] * each
    fits.clear()
    study.sampler.recommend(study)
    assert set(fits) == {6}
    assert len(fits) <= each  # without noise constraints hold as they were measured


def test_random_moves_fit_only_constraints(fits: list[int]) -> None:
    study = optuna.create_study(sampler=DQNSampler(policy="random", seed=0))
    study.optimize(lambda trial: objective(2, trial), n_trials=3)
    assert fits == [1, 1, 2, 2]
