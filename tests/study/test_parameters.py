"""The kinds of parameters that a study may have."""

import math

import optuna
import pytest

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
    assert all(c.params.keys() == {"lr", "optimizer"} for c in s.sampler.explain(s))


def test_only_unordered_parameters() -> None:
    s = study()
    s.optimize(lambda t: float(t.suggest_categorical("a", ["x", "y"]) == "x"), n_trials=8)
    assert s.sampler.recommend(s) == {"a": "y"}
    assert [t.params["a"] for t in s.trials[:2]] == ["x", "y"]


def test_parameters_that_no_two_trials_share() -> None:
    def f(trial: optuna.Trial) -> float:
        name = f"x{trial.number % 2}"
        trial.set_constraint("size", 0.0)
        return trial.suggest_float(name, 0, 1)

    s = study()
    s.optimize(f, n_trials=6)
    assert s.sampler.explain(s) == []
    assert s.sampler.risk(s).observed == 0


def test_the_independent_sampler_is_the_users_for_what_only_some_trials_have() -> None:
    class Last(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):  # type: ignore[no-untyped-def]
            return param_distribution.high

    def f(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        return math.log10(lr) + (trial.suggest_int("warmup", 0, 9) if trial.number % 2 else 0)

    s = study(independent_sampler=Last())
    s.optimize(f, n_trials=6)
    assert [t.params["warmup"] for t in s.trials[1::2]] == [4, 9, 9]  # the first is its default


@pytest.mark.parametrize("choices", [["0.0001", "0.001", "0.01", "0.1"], ["a", "b", "c", "d"]])
def test_categories_are_searched_with_the_rest(choices: list[str]) -> None:
    """The best choice is found beside a number, without an independent sampler's help."""

    class Refuses(optuna.samplers.RandomSampler):
        def sample_independent(self, *arguments):  # type: ignore[no-untyped-def]
            raise AssertionError("it was asked")

    def f(trial: optuna.Trial) -> float:
        chosen = choices.index(trial.suggest_categorical("kind", choices))
        return abs(chosen - 2) + (trial.suggest_float("x", 0, 1) - 0.7) ** 2

    s = study(independent_sampler=Refuses())
    s.optimize(f, n_trials=20)
    assert s.best_params["kind"] == choices[2]
    assert abs(s.best_params["x"] - 0.7) < 0.15


def test_many_parameters() -> None:
    def f(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(f"x{i}", 0, 1) - 0.3) ** 2 for i in range(12))

    s = study()
    s.optimize(f, n_trials=30)
    assert s.best_value < s.trials[0].value


def test_a_batch_size_that_is_said_to_be_one_must_be_an_integer() -> None:
    s = study(roles={"size": "batch_size"})
    with pytest.raises(InvalidInputError, match="a batch size must be an integer"):
        s.optimize(lambda t: t.suggest_float("size", 16, 512), n_trials=1)
    s = study()
    s.optimize(lambda t: t.suggest_float("batch_size", 16, 512), n_trials=2)  # a guess gives way
    assert len(s.trials) == 2
