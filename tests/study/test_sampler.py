"""`DQNSampler` beyond Optuna's conformance suite."""

import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from rlhf_tune import DQNSampler
from rlhf_tune.errors import InvalidInputError
from tests.study.bowl import BATCH, LR, loss, objective, study


def test_finds_the_optimum_of_a_bowl_within_forty_trials() -> None:
    s = study(seed=3)
    s.optimize(objective, n_trials=40)
    assert s.best_value < 0.1 < loss(1e-3, 32)


def test_points_are_not_repeated_except_by_staying() -> None:
    s = study()
    s.optimize(objective, n_trials=40)
    seen: dict[tuple[object, ...], float] = {}
    best = math.inf
    for t in s.trials:
        point = tuple(t.params.values())
        assert point not in seen or seen[point] == best
        seen[point] = t.value
        best = min(best, t.value)


def test_an_exhausted_lattice_means_stay() -> None:
    s = study(policy="random")
    s.optimize(lambda t: (t.suggest_int("x", 0, 4) - 1) ** 2, n_trials=20)
    visited = [t.params["x"] for t in s.trials]
    assert set(visited) == set(range(5))
    last_new = max(visited.index(x) for x in range(5))
    assert visited[last_new + 1 :] == [1] * (19 - last_new)


def test_a_point_whose_repeats_agreed_is_not_repeated() -> None:
    s = study(policy="random", seed=1)
    s.optimize(lambda t: (t.suggest_int("x", 0, 30) - 11) ** 2, n_trials=31)
    visited = [t.params["x"] for t in s.trials]
    assert len(set(visited)) >= 30


def test_around_the_best_a_float_gets_as_near_as_wanted() -> None:
    s = study()
    s.optimize(lambda t: abs(t.suggest_float("x", 0, 1) - math.pi / 10), n_trials=60)
    assert s.best_value < 1e-4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    s = study()
    s.optimize(lambda t: objective(t) + (bad if t.number % 3 == 1 else 0), n_trials=12)
    assert len(s.trials) == 12
    assert all(t.state.is_finished() for t in s.trials)
    assert s.sampler.recommend(s).keys() == {"lr", "batch_size"}


def test_failed_and_pruned_trials_count_as_tried() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.number % 4 == 1:
            raise RuntimeError("out of memory")
        if trial.number % 4 == 2:
            raise optuna.TrialPruned
        if trial.number % 4 == 3:
            trial.report(value, 1)
            raise optuna.TrialPruned
        return value

    s = study()
    s.optimize(f, n_trials=24, catch=(RuntimeError,))
    complete = {tuple(t.params.values()) for t in s.get_trials(states=(TrialState.COMPLETE,))}
    lost = [tuple(t.params.values()) for t in s.trials if t.state != TrialState.COMPLETE]
    new = [point for point in lost if point not in complete]  # "stay" may be repeated
    assert len(lost) == 18
    assert len(new) == len(set(new)) >= 15


def test_hyperband() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        for step in range(9):
            trial.report(value + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    s = optuna.create_study(
        sampler=DQNSampler(seed=0), pruner=optuna.pruners.HyperbandPruner(max_resource=9)
    )
    s.optimize(f, n_trials=20)
    assert len(s.trials) == 20
    assert s.sampler.recommend(s)


def test_added_trials_are_experience() -> None:
    s = study()
    for lr in (1e-2, 1e-4):
        s.add_trial(
            create_trial(
                params={"lr": lr, "batch_size": 128},
                distributions={"lr": LR, "batch_size": BATCH},
                value=loss(lr, 128),
            )
        )
    first = s.ask({"lr": LR, "batch_size": BATCH})
    assert first.params != {"lr": 1e-3, "batch_size": 32}
    assert s.sampler.explain(s)[0].params.keys() == {"lr", "batch_size"}
    assert s.sampler.recommend(s) == {"lr": 1e-2, "batch_size": 128}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": {"lr": "speed"}}, "a role must be one of"),
        ({"policy": "magic"}, "`policy` must be one of"),
        ({"budget": 0}, "`budget` must be at least 1"),
        ({"confidence": 1.5}, r"`confidence` must be within \[0, 1\)"),
        ({"max_unsafe": -1}, "`max_unsafe` must not be negative"),
        ({"price": -0.1}, "`price` must not be negative"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DQNSampler(**arguments)


def test_a_misspelt_name_is_noticed() -> None:
    s = study(roles={"lrr": "learning_rate"})
    with pytest.warns(UserWarning, match="lrr"):
        s.optimize(objective, n_trials=1)
