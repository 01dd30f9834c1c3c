"""Where trials go while none is complete.

The first is the start. What runs has no result yet, and one side by side must not repeat it, so
they spread: over learning rate and batch size to where, as earlier tasks have it, they together
come nearest to the best; in all else to neighbours of the start.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.study.decision import far_cells, remoteness
from rlhf_tune.study.history import History, untaken
from rlhf_tune.study.prior import KNOWN, Places, Prior, axis_of, places_of
from rlhf_tune.study.space import Axis, Cell

Cells = NDArray[np.int64]

_NEIGHBOURS = 128  # that are drawn


def opening(
    history: History, start: Sequence[int], prior: Prior, rng: np.random.Generator, leave: int = 0
) -> Cell:
    """The cell to try while no trial is complete: `start`, else beside it, else far from failures.

    Far also where people compare, who see no difference between neighbours. The best `leave`
    cells are left to others, the first of which takes the start where nobody has yet.
    """
    begun = len(history.cells) > 0
    if not begun and not leave:
        return tuple(start)
    first, leave = (history.cells[0], leave) if begun else (np.array(start), leave - 1)
    if begun and (history.judged or bool(history.failed.any())):
        cells = _open(history, first, first + history.lattice.offsets(), far_cells(history, rng))
        cells = cells[np.argsort(-remoteness(history, cells), kind="stable")]
    else:
        reach = 3 + (len(history.cells) + leave) // 2
        near = first + rng.integers(-reach, reach + 1, size=(_NEIGHBOURS, len(first)))
        cells = _open(history, first, near, first + history.lattice.offsets())
        cells = np.concatenate([_apart(history, first, near, prior, leave + 1), cells])
    return tuple((cells[leave % len(cells)] if len(cells) else np.array(start)).tolist())


def apart(
    history: History, params: Mapping[str, Any], axis: Axis, start: Any, prior: Prior, count: int
) -> list[Any]:
    """Up to `count` values of an axis of a trial that go well together and with what runs.

    For a trial of which `params` are known so far; the first of those that have none of their own
    take the start. Empty for an axis of which the prior says nothing.
    """
    lattice = history.lattice
    if axis.role not in KNOWN or axis_of(lattice, axis.role) is None:
        return []
    taken = history.params or ({**params, axis.name: start},)
    every = ({**params, axis.name: value} for value in axis.values)
    points = [p for p in every if not any(p.items() <= other.items() for other in taken)]
    there, running = (places_of(lattice, lattice.positions_of(p)) for p in (points, taken))
    found = [points[i][axis.name] for i in spread(prior, there, running, count)]
    return found if history.params else [start, *found]


def _open(history: History, first: Cells, *cells: Cells) -> Cells:
    """[N, D] those of the lattice that nobody has."""
    every = np.concatenate([first[None], *cells])
    return np.asarray(every[untaken(history, every)][1:])


def _apart(history: History, first: Cells, near: Cells, prior: Prior, count: int) -> Cells:
    """[N, D] up to `count` cells that go well together and with those that run, in that order."""
    lattice = history.lattice
    known = [d for role in KNOWN if (d := axis_of(lattice, role)) is not None]
    every = np.array(list(itertools.product(*(range(lattice.shape[d]) for d in known))))
    cells = np.resize(near, (len(every), len(first)))
    cells = np.clip(cells, 0, np.array(lattice.shape) - 1)
    cells[:, known] = every
    cells = _open(history, first, cells)
    running = history.cells if len(history.cells) else first[None]
    there, taken = (places_of(lattice, lattice.positions(c)) for c in (cells, running))
    return cells[spread(prior, there, taken, count)]


def spread(prior: Prior, candidates: Places, taken: Places, count: int) -> list[int]:
    """Up to `count` of M candidates that together, and with those taken, come nearest to the best.

    Each in turn adds most to the expected best of all, over what a task may be; none that adds
    nothing. Greedy is near the best choice, for what a place adds shrinks as others join:
    Nemhauser, Wolsey and Fisher (1978), doi:10.1007/BF01588971.
    """
    each, chances = prior.means_at(candidates), np.exp(prior.log_weights)
    best = prior.means_at(taken).max(axis=0)
    found: list[int] = []
    for _ in range(min(count, len(each))):
        added = np.maximum(each - best, 0) @ chances
        chosen = int(added.argmax())
        if added[chosen] <= 0:
            break
        found.append(chosen)
        best = np.maximum(best, each[chosen])
    return found
