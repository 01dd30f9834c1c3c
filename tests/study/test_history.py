"""A study as arrays and as a decision process."""

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from rlhf_tune import DQNSampler
from rlhf_tune.study.history import common_space, read
from rlhf_tune.study.space import lattice, offsets
from rlhf_tune.study.transitions import transitions

SPACE = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "batch_size": IntDistribution(16, 512, log=True),
}


def trial(value: float | None, lr: float, batch: int = 32, **constraints: float):  # type: ignore[no-untyped-def]
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params={"lr": lr, "batch_size": batch},
        distributions=SPACE,
        constraints=constraints or None,
    )


def study_of(*trials, direction: str = "minimize") -> optuna.Study:  # type: ignore[no-untyped-def]
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study


def history_of(*trials, direction: str = "minimize"):  # type: ignore[no-untyped-def]
    study = study_of(*trials, direction=direction)
    return read(study.trials, lattice(SPACE, {}), study.direction)


@pytest.mark.parametrize(("direction", "sign"), [("minimize", -1.0), ("maximize", 1.0)])
def test_rewards_telescope(direction: str, sign: float) -> None:
    study = optuna.create_study(direction=direction, sampler=DQNSampler(seed=0))
    study.optimize(
        lambda t: (
            math.log10(t.suggest_float("lr", 1e-5, 1e-1, log=True)) ** 2
            + t.suggest_int("batch_size", 16, 512, log=True) / 512
        ),
        n_trials=15,
    )
    table = transitions(study)
    assert len(table) == 14
    assert table.reward.sum() == pytest.approx(sign * (study.best_value - study.trials[0].value))
    assert (table.reward >= 0).all()
    np.testing.assert_array_equal(table.state[1:], table.next_state[:-1])
    np.testing.assert_allclose(table.reward, table.next_state[:, 0] - table.state[:, 0])


def test_golden_transitions() -> None:
    study = study_of(
        trial(3.0, 1e-3), trial(5.0, 1e-2), trial(None, 1e-4, 64), trial(1.0, 1e-3, 64)
    )
    table = transitions(study)
    assert table.columns == ("performance", "batch_size", "lr")
    np.testing.assert_allclose(table.reward, [0, 0, 2])
    np.testing.assert_allclose(table.state[:, 0], [-3, -3, -3])
    np.testing.assert_allclose(
        table.action, [[0, 1], [math.log10(2), -1], [math.log10(2), 0]], atol=1e-9
    )
    np.testing.assert_allclose(table.next_state[-1], [-1, math.log10(64), -3])
    assert (table.discount == 1).all()


def test_the_mask_of_the_next_state_forbids_what_was_tried() -> None:
    study = study_of(trial(3.0, 1e-3), trial(5.0, 1e-3, 64), trial(None, 1e-3, 16))
    table = transitions(study)
    moves = offsets(lattice(SPACE, {}).shape).tolist()
    up, down, stay = moves.index([1, 0]), moves.index([-1, 0]), moves.index([0, 0])
    assert table.mask[:, [up, down, stay]].tolist() == [[False, True, True], [False, False, True]]


def test_export_is_flat_columns() -> None:
    table = transitions(study_of(trial(3.0, 1e-3), trial(2.0, 1e-2))).as_dict()
    assert table["reward"] == [1.0]
    assert table["number"] == [1]
    assert len({len(column) for column in table.values()}) == 1
    assert "next_state_lr" in table


def test_an_empty_study_has_no_transitions() -> None:
    table = transitions(optuna.create_study())
    assert len(table) == 0
    assert table.as_dict()["reward"] == []


def test_the_incumbent_is_the_best_feasible_trial() -> None:
    history = history_of(trial(3.0, 1e-3, c=-1.0), trial(1.0, 1e-2, c=0.5), trial(2.0, 1e-4, c=0.0))
    assert history.eligible.tolist() == [True, False, True]
    assert history.unsafe.tolist() == [False, True, False]
    assert history.best() == 2


def test_without_a_feasible_trial_the_least_violating_one_is_the_incumbent() -> None:
    history = history_of(trial(1.0, 1e-3, c=0.9), trial(2.0, 1e-2, c=0.1), trial(3.0, 1e-4, c=0.1))
    assert history.best() == 1


def test_a_trial_without_a_required_constraint_is_unchecked() -> None:
    history = history_of(trial(1.0, 1e-3), trial(2.0, 1e-2, c=-0.1), trial(3.0, 1e-4, d=-0.1))
    assert not history.eligible.any()
    assert history.measured.tolist() == [False, False, False]
    history = history_of(trial(1.0, 1e-3), trial(2.0, 1e-2, c=-0.1))
    assert history.best() == 1


def test_infinite_values_become_the_extreme_finite_ones() -> None:
    values = [1.0, math.inf, 3.0, -math.inf]
    history = history_of(*(trial(v, 1e-3) for v in values))
    assert history.values.tolist() == [-1.0, -3.0, -3.0, -1.0]
    assert history.best() == 0


def test_common_space_takes_the_latest_range_and_only_shared_parameters() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for high in (10, 20):
        t = study.ask({"x": FloatDistribution(0, high), "y": FloatDistribution(0, 1)})
        study.tell(t, 0.0)
    study.tell(study.ask({"x": FloatDistribution(0, 5)}), 0.0)
    assert common_space(study.trials) == {"x": FloatDistribution(0, 5)}
    assert common_space([]) == {}


def test_a_repeated_measurement_tells_whether_there_is_noise() -> None:
    assert history_of(trial(2.0, 0.1), trial(3.0, 0.01), trial(2.0, 0.1)).repeats_itself(0)
    assert not history_of(trial(2.0, 0.1), trial(2.0, 0.01)).repeats_itself(0)
    noisy = history_of(trial(2.0, 0.1), trial(2.1, 0.1), trial(2.0, 0.1))
    assert not noisy.repeats_itself(0)
    assert not history_of(trial(2.0, 0.1), trial(None, 0.1)).repeats_itself(0)


def test_an_unordered_value_counts_as_distance() -> None:
    study = optuna.create_study()
    choice = optuna.distributions.CategoricalDistribution(["a", "b"])
    for value in ("a", "b", "a"):
        study.add_trial(
            create_trial(
                params={"lr": 1e-3, "kind": value},
                distributions={"lr": SPACE["lr"], "kind": choice},
                value=0.0,
            )
        )
    history = read(study.trials, lattice({"lr": SPACE["lr"]}, {}), study.direction)
    rows = history.features()
    assert np.linalg.norm(rows[0] - rows[1]) == pytest.approx(1.0)
    assert np.linalg.norm(rows[0] - rows[2]) == 0.0
