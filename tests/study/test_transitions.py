"""The exported decision process: it is the one that was played."""

import math

import numpy as np
import optuna
import pytest
from made_trials import SPACE, study_of, trial

from rlhf_tune import DQNSampler
from rlhf_tune.safety import SafetyChecker
from rlhf_tune.study import decision
from rlhf_tune.study.space import lattice, offsets
from rlhf_tune.study.transitions import transitions

optuna.logging.set_verbosity(optuna.logging.ERROR)

MOVES = offsets(lattice(SPACE, {}).shape)


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
    assert table.move[:2].tolist() == [-1, -1]  # ten cells away
    assert MOVES[table.move[2]].tolist() == [2, 0]
    np.testing.assert_allclose(table.next_state[-1], [-1, math.log10(64), -3])
    assert (table.discount == 1).all()


def test_the_mask_of_the_next_state_forbids_what_was_tried() -> None:
    study = study_of(trial(3.0, 1e-3), trial(5.0, 1e-3, 64), trial(None, 1e-3, 16))
    table = transitions(study)
    moves = MOVES.tolist()
    up, down, stay = moves.index([2, 0]), moves.index([-2, 0]), moves.index([0, 0])
    assert table.mask[:, [up, down, stay]].tolist() == [[False, True, True], [False, False, True]]


def test_the_mask_of_the_next_state_forbids_what_is_predicted_unsafe() -> None:
    study = study_of(trial(3.0, 1e-4, c=-0.2), trial(2.0, 1e-3, c=-0.1), trial(5.0, 1e-2, c=0.3))
    up = MOVES.tolist().index([0, 16])
    assert not transitions(study).mask[-1, up]
    assert transitions(study, checker=SafetyChecker(confidence=0.0)).mask[-1, up]


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


def objective(constraints: int, optimizers: bool, trial: optuna.Trial) -> float:
    """A noisy bowl whose best part is unsafe, in both directions of the learning rate."""
    decades = math.log10(trial.suggest_float("lr", 1e-5, 1e-1, log=True))
    size = math.log2(trial.suggest_int("batch_size", 16, 512, log=True))
    other = optimizers and trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd"
    rng = np.random.default_rng([trial.number, constraints])
    if constraints > 0:
        trial.set_constraint("robust", 0.05 * (decades + 2.2) + 0.05 * rng.normal())
    if constraints > 1:
        trial.set_constraint("leak", 0.02 * (size - 8) + 0.03 * rng.normal())
    if trial.number % 7 == 5:
        raise optuna.TrialPruned
    return (decades + 2) ** 2 + 0.1 * (size - 6) ** 2 + other + 0.1 * rng.normal()


@pytest.mark.filterwarnings("ignore:the study ends here")  # the rest is predicted unsafe
@pytest.mark.parametrize("policy", ["default", "random"])
@pytest.mark.parametrize("constraints", [0, 1, 2])
@pytest.mark.parametrize("optimizers", [False, True])
def test_what_is_exported_was_played(
    policy: str, constraints: int, optimizers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Incumbents and masks are those of the sampler, and it moved as they allow."""
    played, observe = [], decision.observe

    def recorded(*args, **kwargs):  # type: ignore[no-untyped-def]
        played.append(observe(*args, **kwargs))
        return played[-1]

    monkeypatch.setattr(decision, "observe", recorded)
    study = optuna.create_study(sampler=DQNSampler(policy=policy, seed=constraints))
    study.enqueue_trial({"lr": 2.3e-4, "batch_size": 50})  # between two cells
    study.optimize(lambda t: objective(constraints, optimizers, t), n_trials=18)
    table = transitions(study)
    states = [state for state in played if state is not None]
    assert table.number.tolist() == list(range(1, 18))
    assert len(states) == 17
    assert (table.move[:7] >= 0).all()  # later ones may go beyond the moves
    for row, state in enumerate(states):
        moved_from = state.history.positions[state.incumbent]
        np.testing.assert_array_equal(table.state[row, 1:], moved_from)
        if row:
            before = table.mask[row - 1]
            assert table.move[row] < 0 or before[table.move[row]]
            cells = state.history.cells[state.incumbent] + state.history.lattice.offsets()
            reached = {tuple(cell) for cell in cells.tolist()}
            open_ = {tuple(cell) for cell in state.cells[state.allowed].tolist()}
            assert {tuple(cell) for cell in cells[before].tolist()} == open_ & reached


def test_a_trial_that_was_no_move_says_so() -> None:
    study = optuna.create_study(sampler=DQNSampler(policy="random", seed=0))
    objective_ = lambda t: abs(t.suggest_int("x", 0, 40) - 3)  # noqa: E731
    study.optimize(objective_, n_trials=4)
    study.enqueue_trial({"x": 40})
    study.optimize(objective_, n_trials=36)
    table = transitions(study)
    far = table.move == -1
    assert 4 in table.number[far]
    assert (np.abs(table.action[far, 0]) > 0).all()  # they keep their offset
    everywhere = ~table.mask[:-1, 1:].any(axis=1)  # all around was taken: the lattice is open
    assert (far[1:] | (table.move[1:] == 0))[everywhere].all()
