"""A study as the transitions of a Markov decision process, for agents and for analysis."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study

from rlhf_tune.study.history import Bools, Floats, History, Ints, common_space, read, untaken
from rlhf_tune.study.space import check_roles, lattice, offsets


@dataclass(frozen=True)
class Transitions:
    """The decision process of a study, one row a trial after the first complete one.

    Attributes:
        number: [N] trial numbers.
        state: [N, 1 + D] performance (larger is better) and coordinates of the incumbent.
        action: [N, D] offset of the trial from the incumbent, in coordinates.
        reward: [N] gain of the incumbent's performance by the trial.
        next_state: [N, 1 + D] the state after it.
        mask: [N, A] which of the lattice's moves (`space.offsets`) the next state allows.
        discount: [N] the discount of what follows; 1 throughout, since a study ends by
            truncation, which bootstraps.
        columns: The names of the state's entries.
    """

    number: Ints
    state: Floats
    action: Floats
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
        table["reward"] = self.reward.tolist()
        for i, name in enumerate(self.columns):
            table[f"next_state_{name}"] = self.next_state[:, i].tolist()
        table["allowed_moves"] = self.mask.sum(axis=1).tolist()
        table["discount"] = self.discount.tolist()
        return table


def transitions(study: Study, *, roles: Mapping[str, str] | None = None) -> Transitions:
    """Export a single-objective study as the transitions of its decision process.

    Trials without a result (failed, pruned) are steps without gain; running ones are left out.

    Raises:
        InvalidInputError: If a role is unknown or does not fit its parameter.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    space = lattice(common_space(trials), check_roles(roles))
    history = read(trials, space, study.direction)
    moves = offsets(space.shape)
    incumbents = [history.before(row).best() for row in range(len(history.numbers) + 1)]
    rows = [
        _transition(history, row, before, after, moves)
        for row, (before, after) in enumerate(itertools.pairwise(incumbents))
        if before is not None and after is not None
    ]
    d, a, n = len(space.axes), len(moves), len(rows)
    names = ["number", "state", "action", "reward", "next_state", "mask"]
    shapes = [(n,), (n, 1 + d), (n, d), (n,), (n, 1 + d), (n, a)]
    columns = [np.array([row[i] for row in rows]) for i in range(len(names))]
    arrays = {k: c.reshape(s) for k, c, s in zip(names, columns, shapes, strict=True)}
    return Transitions(
        number=arrays["number"].astype(np.int64),
        state=arrays["state"],
        action=arrays["action"],
        reward=arrays["reward"],
        next_state=arrays["next_state"],
        mask=arrays["mask"].astype(np.bool_),
        discount=np.ones(n),
        columns=("performance", *(axis.name for axis in space.axes)),
    )


def _transition(
    history: History, row: int, before: int, after: int, moves: Ints
) -> tuple[Any, ...]:
    """The step of trial `row`, which took the incumbent from row `before` to row `after`."""
    state, next_state = _state(history, before), _state(history, after)
    action = history.positions[row] - history.positions[before]
    mask = untaken(history.before(row + 1), history.cells[after] + moves)
    return history.numbers[row], state, action, next_state[0] - state[0], next_state, mask


def _state(history: History, row: int) -> Floats:
    return np.concatenate([[history.values[row]], history.positions[row]])
