"""The search space as a lattice: what a parameter is (its role), its grid, and the moves on it.

Every ordered parameter becomes one axis of candidate values: evenly spaced on the scale on which
it acts (logarithmic for a learning rate or batch size). A cell is an index into the lattice, its
position the coordinates there; a trial belongs to the nearest cell, and a move is an offset in
cells. Unordered categoricals have no neighbours, so they are no part of it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlhf_tune.errors import InvalidInputError

Role = Literal["learning_rate", "batch_size", "other"]
Cell = tuple[int, ...]
Ranged = FloatDistribution | IntDistribution
Floats = NDArray[np.float64]

DEFAULTS: dict[Role, float] = {"learning_rate": 1e-3, "batch_size": 32}
"""Where a parameter of a role starts: the default of Keras' optimizers and of `model.fit`."""

# Chosen on validation tasks: ten of the learning rate beat five, ten of the others lost to five.
_POINTS_PER_DECADE: dict[Role, int] = {"learning_rate": 10, "other": 5}
# Not tuned:
_LINEAR_LENGTH = 0.3  # of the range; a logarithmic axis has a length scale of one decade
_MAX_POINTS = 65
_SIZES = (1, 2, 4, 8, 16, 32)
_MAX_MOVES = 1024
_NAMES: dict[Role, re.Pattern[str]] = {
    "learning_rate": re.compile(r"(^|_)(lr|learning_?rate|eta)($|_\d+$)", re.IGNORECASE),
    "batch_size": re.compile(r"(^|_)(batch_?size|batch|bs)$", re.IGNORECASE),
}


@dataclass(frozen=True)
class Axis:
    """One ordered parameter of the search space.

    Attributes:
        name: The parameter's name in the study.
        role: What it is.
        distribution: The range that the objective asked for.
        values: The candidate values in ascending order, as the objective receives them.
        coordinates: [n] the same on the scale on which the parameter acts: decades for
            logarithmic parameters (so .3 is a factor of two), a fraction of the range otherwise.
        log: Whether the coordinates are decades.
    """

    name: str
    role: Role
    distribution: BaseDistribution
    values: tuple[Any, ...]
    coordinates: Floats
    log: bool

    def coordinates_of(self, values: ArrayLike) -> Floats:
        """[T] coordinates of any values [T]; those outside the range are projected onto it."""
        low, high = self.values[0], self.values[-1]
        inside = np.clip(np.asarray(values, dtype=np.float64), low, high)
        if self.log:
            return np.asarray(np.log10(inside))
        return np.asarray((inside - low) / (high - low or 1.0))

    def nearest(self, coordinates: Floats) -> NDArray[np.int64]:
        """[T] the indices of the candidates nearest to coordinates [T]."""
        middles = (self.coordinates[1:] + self.coordinates[:-1]) / 2
        return np.searchsorted(middles, coordinates)

    def index(self, value: float) -> int:
        """The index of the candidate nearest to one value."""
        return int(self.nearest(self.coordinates_of([value]))[0])

    @property
    def default(self) -> Any:
        """Where tuning starts: the role's default clipped to the range, else mid-range."""
        dist = self.distribution
        if self.role == "other" or isinstance(dist, CategoricalDistribution):
            if self.role == "other":
                return self.values[(len(self.values) - 1) // 2]
            return self.values[self.index(DEFAULTS[self.role])]
        return _legal(dist, DEFAULTS[self.role])

    def neighbour(self, value: float, reach: int, rng: np.random.Generator) -> Any:
        """A candidate 1 to `reach` steps away from `value`, to either side; itself if alone."""
        here, n = self.index(value), len(self.values)
        near = [i for i in range(max(0, here - reach), min(n, here + reach + 1)) if i != here]
        return self.values[int(rng.choice(near))] if near else self.values[here]


@dataclass(frozen=True)
class Lattice:
    """The product of the axes, sorted by name."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> Cell:
        """Number of candidate values of each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    def positions_of(self, params: Sequence[Mapping[str, Any]]) -> Floats:
        """[T, D] positions of T trials' parameters, projected onto the ranges."""
        columns = [axis.coordinates_of([p[axis.name] for p in params]) for axis in self.axes]
        return np.array(columns).reshape(len(self.axes), len(params)).T

    def cells(self, positions: Floats) -> NDArray[np.int64]:
        """[T, D] the cells nearest to positions [T, D]."""
        columns = [axis.nearest(positions[:, d]) for d, axis in enumerate(self.axes)]
        return np.array(columns, dtype=np.int64).reshape(positions.shape[::-1]).T

    def positions(self, cells: NDArray[np.int64]) -> Floats:
        """[M, D] positions of cells [M, D]: their coordinates along each axis."""
        columns = [axis.coordinates[cells[:, d]] for d, axis in enumerate(self.axes)]
        return np.stack(columns, axis=1)

    def in_length_scales(self, positions: Floats) -> Floats:
        """Positions [M, D] in the distances over which results are expected to change."""
        lengths = np.array([1.0 if axis.log else _LINEAR_LENGTH for axis in self.axes])
        return np.asarray(positions / lengths)

    def params(self, cell: Sequence[int]) -> dict[str, Any]:
        """The parameters of a cell, in the types that the distributions ask for."""
        return {axis.name: axis.values[i] for axis, i in zip(self.axes, cell, strict=True)}

    def inside(self, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[M] whether cells [M, D] lie on the lattice."""
        return np.asarray(((cells >= 0) & (cells < np.array(self.shape))).all(axis=1))


def lattice(space: Mapping[str, BaseDistribution], roles: Mapping[str, Role]) -> Lattice:
    """The lattice over the ordered parameters of a search space.

    Raises:
        InvalidInputError: If a role does not fit its distribution.
    """
    return Lattice(tuple(axis(name, space[name], roles.get(name)) for name in sorted(space)))


def is_ordered(distribution: BaseDistribution) -> bool:
    """Whether neighbours exist: any range, or a categorical whose choices are distinct numbers."""
    if not isinstance(distribution, CategoricalDistribution):
        return True
    choices = distribution.choices
    numeric = all(
        isinstance(c, int | float) and not isinstance(c, bool) and math.isfinite(c) for c in choices
    )
    return numeric and len(set(choices)) == len(choices)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give `value`."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and value == _legal(distribution, value)


def check_roles(roles: Mapping[str, str] | None) -> dict[str, Role]:
    """Copy a user's mapping of roles.

    Raises:
        InvalidInputError: If a role is unknown.
    """
    known: dict[str, Role] = {str(role): role for role in get_args(Role)}
    for name, role in (roles or {}).items():
        if role not in known:
            raise InvalidInputError(
                f"a role must be one of {sorted(known)}, but `{name}` got {role!r}"
            )
    return {name: known[role] for name, role in (roles or {}).items()}


@lru_cache(maxsize=512)
def axis(name: str, distribution: BaseDistribution, role: Role | None) -> Axis:
    """The axis of one ordered parameter; `role=None` infers it from the name.

    Raises:
        InvalidInputError: If the role does not fit the distribution.
    """
    role = role or _infer_role(name)
    _check_fits(name, distribution, role)
    values = _candidates(distribution, role)
    log = values[0] > 0 and (role != "other" or getattr(distribution, "log", False))
    if log:
        coordinates = np.log10(np.array(values, dtype=np.float64))
    else:
        coordinates = np.array(values, dtype=np.float64) - values[0]
        coordinates /= coordinates[-1] if coordinates[-1] > 0 else 1.0
    return Axis(name, role, distribution, values, coordinates, log)


@lru_cache(maxsize=64)
def offsets(shape: Cell) -> NDArray[np.int64]:
    """The moves [A, D] on a lattice, in cells; row 0 is "stay".

    Every axis moves by 1, 2, 4, ... cells in both directions, alone or together with one other
    axis. On lattices of many axes the pairs are thinned (equal sizes only, then none), so that
    there are at most about a thousand moves.
    """
    steps = [[s * sign for s in _SIZES if s < n for sign in (1, -1)] for n in shape]
    singles = [_unit(shape, {d: s}) for d, sizes in enumerate(steps) for s in sizes]
    pairs = [
        (_unit(shape, {d: s, e: t}), abs(s) == abs(t))
        for d, e in itertools.combinations(range(len(shape)), 2)
        for s in steps[d]
        for t in steps[e]
    ]
    room = _MAX_MOVES - len(singles) - 1
    chosen = [pair for pair, _ in pairs]
    if len(chosen) > room:
        chosen = [pair for pair, equal in pairs if equal]
    if len(chosen) > room:
        chosen = []
    moves = np.array([_unit(shape, {}), *singles, *chosen], dtype=np.int64)
    moves.flags.writeable = False  # one array for all who ask
    return moves


def _unit(shape: Cell, steps: Mapping[int, int]) -> list[int]:
    return [steps.get(d, 0) for d in range(len(shape))]


def _infer_role(name: str) -> Role:
    return next((role for role, pattern in _NAMES.items() if pattern.search(name)), "other")


def _check_fits(name: str, distribution: BaseDistribution, role: Role) -> None:
    values = _ends(distribution)
    continuous = isinstance(distribution, FloatDistribution) and distribution.step is None
    whole = all(float(v).is_integer() and v >= 1 for v in values) and not continuous
    if role == "batch_size" and not whole:
        raise InvalidInputError(
            f"a batch size must be an integer of at least 1, but `{name}` ranges over "
            f"{distribution}; use suggest_int, or say roles={{{name!r}: 'other'}}"
        )
    if role == "learning_rate" and min(values) < 0:
        raise InvalidInputError(
            f"a learning rate must not be negative, but `{name}` ranges over {distribution}; "
            f"correct the range, or say roles={{{name!r}: 'other'}}"
        )


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    ranged = cast(Ranged, distribution)
    return (ranged.low, ranged.high, *([] if ranged.step is None else [ranged.step]))


def _candidates(distribution: BaseDistribution, role: Role) -> tuple[Any, ...]:
    """The values of an axis in ascending order, all legal for the distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(sorted(distribution.choices))
    ranged = cast(Ranged, distribution)
    low, high = ranged.low, ranged.high
    if low == high:
        return (low,)
    if role == "batch_size":
        powers = 2.0 ** np.arange(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        raw = powers if len(powers) > 1 else np.array([low, *powers, high], dtype=np.float64)
    elif low > 0 and (ranged.log or role == "learning_rate"):
        decades = math.log10(high / low)
        points = decades * _POINTS_PER_DECADE[role]
        n = min(max(math.ceil(points - 1e-9) + 1, 3), _MAX_POINTS)
        raw = np.array([float(f"{v:.3g}") for v in np.geomspace(low, high, n)])
    else:
        steps = (high - low) / ranged.step if ranged.step else math.inf
        n = 21 if math.isinf(steps) else min(round(steps) + 1, _MAX_POINTS)
        raw = np.linspace(low, high, n)
    return tuple(sorted({_legal(distribution, float(v)) for v in raw}))


def _legal(distribution: BaseDistribution, value: float) -> Any:
    """The value of the distribution nearest to `value`."""
    ranged = cast(Ranged, distribution)
    low, high, step = ranged.low, ranged.high, ranged.step
    value = min(max(value, low), high)
    if step is not None and not ranged.log:
        value = low + round((value - low) / step) * step
    if isinstance(distribution, IntDistribution):
        return min(max(round(value), low), high)
    return float(min(max(value, low), high))
