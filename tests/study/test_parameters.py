"""The kinds of parameters that a study may have."""

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from rlhf_tune.errors import InvalidInputError
from tests.study.bowl import study


def test_a_dynamic_range_keeps_its_parameter() -> None:
    s = study()
    s.optimize(lambda t: (t.suggest_float("x", 0, 10) - 4) ** 2, n_trials=10)
    s.optimize(lambda t: (t.suggest_float("x", 0, 5) - 4) ** 2, n_trials=10)
    assert all(t.params["x"] <= 5 for t in s.trials[10:])
    assert min(t.value for t in s.trials) < 0.3


def test_conditional_and_unordered_parameters() -> None:
    def f(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            return abs(math.log10(lr) + 1) + trial.suggest_float("momentum", 0, 1)
        return abs(math.log10(lr) + 3) + 0.1 * trial.suggest_int("warmup", 0, 5)

    s = study()
    s.optimize(f, n_trials=25)
    assert {t.params["optimizer"] for t in s.trials} == {"adam", "sgd"}
    assert s.sampler.recommend(s)["optimizer"] in {"adam", "sgd"}
    assert all(c.params.keys() == {"lr"} for c in s.sampler.explain(s))


def test_only_unordered_parameters() -> None:
    s = study()
    s.optimize(lambda t: float(t.suggest_categorical("a", ["x", "y"]) == "x"), n_trials=8)
    assert s.sampler.recommend(s) == {"a": "y"}


def test_the_independent_sampler_is_the_users() -> None:
    class Last(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):  # type: ignore[no-untyped-def]
            return param_distribution.choices[-1]

    s = study(independent_sampler=Last())
    s.optimize(lambda t: float(t.suggest_categorical("a", ["x", "y", "z"]) == "x"), n_trials=3)
    assert [t.params["a"] for t in s.trials] == ["z"] * 3


def test_many_parameters() -> None:
    def f(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(f"x{i}", 0, 1) - 0.3) ** 2 for i in range(12))

    s = study()
    s.optimize(f, n_trials=30)
    assert s.best_value < s.trials[0].value


def test_a_batch_size_must_be_an_integer() -> None:
    s = study()
    with pytest.raises(InvalidInputError, match="a batch size must be an integer"):
        s.optimize(lambda t: t.suggest_float("batch_size", 16, 512), n_trials=1)
    s = study(roles={"batch_size": "other"})
    s.optimize(lambda t: t.suggest_float("batch_size", 16, 512), n_trials=2)
    assert len(s.trials) == 2


def test_numeric_choices_are_ordered_and_others_are_not() -> None:
    from rlhf_tune.study.space import is_ordered

    assert is_ordered(CategoricalDistribution([64, 16, 32]))
    assert not is_ordered(CategoricalDistribution(["a", "b"]))
    assert not is_ordered(CategoricalDistribution([True, False]))
    assert not is_ordered(CategoricalDistribution([1, math.inf]))
