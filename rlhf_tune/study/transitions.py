"""A study as the transitions of a Markov decision process, for agents and for analysis.

The state is the incumbent (the best feasible trial so far that would probably be feasible again),
that is its performance and its position; the action is the offset of the next trial from it; the
reward is the incumbent's gain, so rewards telescope to the final performance minus the first.
Incumbent and mask are the sampler's own, `rlhf_tune.study.decision`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from optuna.study import Study

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.decision import Caution, incumbent, mask
from rlhf_tune.study.history import (
    Bools,
    Floats,
    History,
    Ints,
    common_space,
    is_preferential,
    read,
)
from rlhf_tune.study.risk import SafetyChecker
from rlhf_tune.study.roles import check_roles
from rlhf_tune.study.space import lattice
from rlhf_tune.threads import one_thread


@dataclass(frozen=True)
class Transitions:
    """The decision process of a study, one row a trial after the first complete one.

    Attributes:
        number: [N] trial numbers.
        state: [N, 1 + D] performance (larger is better) and position of the incumbent.
        action: [N, D] the trial's position, less the incumbent's.
        move: [N] which of the lattice's moves (`space.offsets`) that is, in cells; -1 where it is
            none: a trial that was enqueued, begun before any was complete, proposed by another
            sampler, or of the whole lattice, because all around the incumbent was taken.
        reward: [N] gain of the incumbent's performance by the trial; below 0 where the trial
            shows that the incumbent would probably violate a constraint when repeated.
        next_state: [N, 1 + D] the state after it.
        mask: [N, A] which of the moves the next state allows. Of these the sampler leaves out those
            that by its policy are not worth the price of their risk, and once `max_unsafe` is
            reached all but staying.
        discount: [N] the discount of what follows; 1 throughout, since a study ends by
            truncation, which bootstraps.
        columns: The names of the state's entries.
    """

    number: Ints
    state: Floats
    action: Floats
    move: Ints
    reward: Floats
    next_state: Floats
    mask: Bools
    discount: Floats
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.number)

    def as_dict(self) -> dict[str, list[Any]]:
        """Flat columns by name, as ``pandas.DataFrame`` or a CSV writer takes them."""
        table: dict[str, list[Any]] = {"number": self.number.tolist()}
        for i, name in enumerate(self.columns):
            table[f"state_{name}"] = self.state[:, i].tolist()
        for i, name in enumerate(self.columns[1:]):
            table[f"action_{name}"] = self.action[:, i].tolist()
        table["move"] = self.move.tolist()
        table["reward"] = self.reward.tolist()
        for i, name in enumerate(self.columns):
            table[f"next_state_{name}"] = self.next_state[:, i].tolist()
        table["allowed_moves"] = self.mask.sum(axis=1).tolist()
        table["discount"] = self.discount.tolist()
        return table


@one_thread()
def transitions(
    study: Study,
    *,
    roles: Mapping[str, str] | None = None,
    checker: SafetyChecker | None = None,
) -> Transitions:
    """Export a single-objective study as the transitions of the decision process it played.

    Trials without a result (failed, pruned) are steps without gain; running ones are left out.

    Args:
        study: Whose trials were told one after the other; of trials that ran side by side the
            sampler knew less than the state says.
        roles: As of `DQNSampler`.
        checker: Predicts the constraints, for incumbent and mask; by default that of a sampler
            with the default `confidence`.

    Raises:
        InvalidInputError: If a role is unknown or does not fit its parameter, or the study is
            preferential.
    """
    if is_preferential(study):
        raise InvalidInputError(
            "transitions need measured values, but this study is preferential: its rewards change "
            "with every comparison"
        )
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    space = lattice(common_space(trials), check_roles(roles))
    history = read(trials, space, study.direction)
    caution, moves = Caution(checker or SafetyChecker()), space.offsets()
    lengths = range(len(history.numbers) + 1)
    standings = [_standing(history.before(length), moves, caution) for length in lengths]
    rows = [
        _transition(history, row, before, after, moves)
        for row, (before, after) in enumerate(itertools.pairwise(standings))
        if before is not None and after is not None
    ]
    d, a, n = len(space.axes), len(moves), len(rows)
    names = ["number", "state", "action", "move", "reward", "next_state", "mask"]
    shapes = [(n,), (n, 1 + d), (n, d), (n,), (n,), (n, 1 + d), (n, a)]
    columns = [np.array([row[i] for row in rows]) for i in range(len(names))]
    arrays = {k: c.reshape(s) for k, c, s in zip(names, columns, shapes, strict=True)}
    return Transitions(
        number=arrays["number"].astype(np.int64),
        state=arrays["state"],
        action=arrays["action"],
        move=arrays["move"].astype(np.int64),
        reward=arrays["reward"],
        next_state=arrays["next_state"],
        mask=arrays["mask"].astype(np.bool_),
        discount=np.ones(n),
        columns=("performance", *(axis.name for axis in space.axes)),
    )


class _Standing(NamedTuple):
    """Where moves start from, and which of the lattice's moves [A] are open."""

    incumbent: int
    allowed: Bools


def _standing(history: History, moves: Ints, caution: Caution) -> _Standing | None:
    """What the sampler would move from after a history; None before any trial is complete."""
    forecasts = caution.checker.forecasts(history)
    row = incumbent(history, caution.checker, forecasts)
    if row is None:
        return None
    cells = history.cells[row] + moves
    allowed = history.lattice.inside(cells)
    p_safe = caution.checker.p_safe(history, cells[allowed], forecasts)
    allowed[allowed] = mask(history, cells[allowed], p_safe, caution)
    return _Standing(row, allowed)


def _transition(
    history: History, row: int, before: _Standing, after: _Standing, moves: Ints
) -> tuple[Any, ...]:
    """The step of trial `row`, which took the study from one standing to another."""
    state, next_state = _state(history, before.incumbent), _state(history, after.incumbent)
    action = history.positions[row] - history.positions[before.incumbent]
    made = (moves == history.cells[row] - history.cells[before.incumbent]).all(axis=1)
    move = int(made.argmax()) if made.any() else -1
    reward = next_state[0] - state[0]
    return history.numbers[row], state, action, move, reward, next_state, after.allowed


def _state(history: History, row: int) -> Floats:
    return np.concatenate([[history.values[row]], history.positions[row]])
