"""The search space as a lattice: the candidates of each parameter, and the moves among them.

Every parameter becomes one axis of candidate values. Those of a number are evenly spaced on the
scale on which it acts (logarithmic for a learning rate or batch size); those of a category have no
order, and each is a step away from each. A cell is an index into the lattice, its position the
coordinates there; a trial belongs to the nearest cell, and a move is an offset in cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.roles import Role, number, role_of

Cell = tuple[int, ...]
Ranged = FloatDistribution | IntDistribution
Floats = NDArray[np.float64]

DEFAULTS: dict[Role, float] = {"learning_rate": 1e-3, "batch_size": 32}
"""Where a parameter of a role starts: the default of Keras' optimizers and of `model.fit`."""

# Chosen on validation tasks: ten of the learning rate beat five, ten of the others lost to five.
_POINTS_PER_DECADE: dict[Role, int] = {"learning_rate": 10, "other": 5}
# Not tuned:
_LINEAR_LENGTH = 0.3  # of the range; a logarithmic axis has a length scale of one decade
_ALL = 33  # a range of so many values has them all as candidates
_MAX_POINTS = 65
_LINEAR_POINTS = 21
_ZERO = 1e-4  # of the largest learning rate: what a smaller one is like
_SIZES = (1, 2, 4, 8, 16, 32)
_MAX_MOVES = 1024


@dataclass(frozen=True, eq=False)
class Axis:
    """One parameter of the search space.

    Attributes:
        name: The parameter's name in the study.
        role: What it is.
        distribution: The range that the objective asked for.
        values: The candidate values in ascending order, as the objective receives them; of a
            category in the order of its choices.
        coordinates: [n] the same on the scale on which the parameter acts: decades for
            logarithmic parameters (so .3 is a factor of two), a fraction of the range otherwise;
            the number of the choice of a category.
        log: Whether the coordinates are decades.
        ordered: Whether there are neighbours.
    """

    name: str
    role: Role
    distribution: BaseDistribution
    values: tuple[Any, ...]
    coordinates: Floats
    log: bool
    ordered: bool = True

    def coordinates_of(self, values: ArrayLike) -> Floats:
        """[T] coordinates of any values [T]; those outside the range are projected onto it."""
        if not self.ordered:
            return np.array([_place(self.values, value) for value in cast(Sequence[Any], values)])
        low, high = float(self.values[0]), float(self.values[-1])
        inside = np.clip(np.asarray(values, dtype=np.float64), low, high)
        if self.log:
            return np.asarray(np.log10(np.maximum(inside, 10.0 ** self.coordinates[0])))
        return np.asarray((inside - low) / (high - low or 1.0))

    def nearest(self, coordinates: Floats) -> NDArray[np.int64]:
        """[T] the indices of the candidates nearest to coordinates [T]."""
        middles = (self.coordinates[1:] + self.coordinates[:-1]) / 2
        return np.searchsorted(middles, coordinates)

    def index(self, value: Any) -> int:
        """The index of the candidate nearest to one value."""
        return int(self.nearest(self.coordinates_of([value]))[0])

    @property
    def default(self) -> Any:
        """Where tuning starts: the role's default clipped to the range, else mid-range.

        Of a category its first choice.
        """
        dist = self.distribution
        if self.role == "other":
            return self.values[(len(self.values) - 1) // 2 if self.ordered else 0]
        if isinstance(dist, CategoricalDistribution):
            return self.values[self.index(DEFAULTS[self.role])]
        return _legal(dist, DEFAULTS[self.role])

    def near(self, value: Any, reach: int) -> list[Any]:
        """The candidates 1 to `reach` steps away from `value`, to either side."""
        here, n = self.index(value), len(self.values)
        places = range(max(0, here - reach), min(n, here + reach + 1)) if self.ordered else range(n)
        return [self.values[i] for i in places if i != here]

    def refined(self, index: int) -> Axis:
        """With a candidate more on each side of one, halfway to its neighbours where that can be.

        Itself where the range has no other values there.
        """
        if isinstance(self.distribution, CategoricalDistribution):
            return self
        places = self.coordinates[max(0, index - 1) : index + 2]
        middles = (places[1:] + places[:-1]) / 2
        scaled = 10.0**middles if self.log else self._spread(middles)
        added = {_legal(self.distribution, float(value)) for value in scaled} - set(self.values)
        if not added:
            return self
        values = tuple(sorted({*self.values, *added}))
        return replace(self, values=values, coordinates=_coordinates(values, log=self.log))

    def _spread(self, fractions: Floats) -> Floats:
        low, high = float(self.values[0]), float(self.values[-1])
        return np.asarray(low + fractions * (high - low))


@dataclass(frozen=True, eq=False)
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

    @property
    def unordered(self) -> tuple[int, ...]:
        """The axes of categories."""
        return tuple(d for d, axis in enumerate(self.axes) if not axis.ordered)

    def offsets(self) -> NDArray[np.int64]:
        """The moves [A, D] on it, in cells; row 0 is "stay"."""
        return offsets(self.shape, self.unordered)

    def positions_of(self, params: Sequence[Mapping[str, Any]]) -> Floats:
        """[T, D] positions of T trials' parameters, projected onto the ranges."""
        columns = [axis.coordinates_of([p[axis.name] for p in params]) for axis in self.axes]
        return np.array(columns, dtype=np.float64).reshape(len(self.axes), len(params)).T

    def cells(self, positions: Floats) -> NDArray[np.int64]:
        """[T, D] the cells nearest to positions [T, D]."""
        columns = [axis.nearest(positions[:, d]) for d, axis in enumerate(self.axes)]
        return np.array(columns, dtype=np.int64).reshape(positions.shape[::-1]).T

    def positions(self, cells: NDArray[np.int64]) -> Floats:
        """[M, D] positions of cells [M, D]: their coordinates along each axis."""
        columns = [axis.coordinates[cells[:, d]] for d, axis in enumerate(self.axes)]
        return np.stack(columns, axis=1)

    def in_length_scales(self, positions: Floats) -> Floats:
        """Positions [M, D] in the distances over which results are expected to change.

        [M, D + C]: one of C further columns for each choice of a category, such that two choices
        are one length scale apart; the category's own column is 0.
        """
        lengths = [
            math.inf if not a.ordered else 1.0 if a.log else _LINEAR_LENGTH for a in self.axes
        ]
        scaled = positions / np.array(lengths)
        if not self.unordered:
            return np.asarray(scaled)
        choices = [positions[:, d, None] == self.axes[d].coordinates for d in self.unordered]
        return np.column_stack([scaled, *(chosen / math.sqrt(2) for chosen in choices)])

    def params(self, cell: Sequence[int]) -> dict[str, Any]:
        """The parameters of a cell, in the types that the distributions ask for."""
        return {axis.name: axis.values[i] for axis, i in zip(self.axes, cell, strict=True)}

    def inside(self, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[M] whether cells [M, D] lie on the lattice."""
        return np.asarray(((cells >= 0) & (cells < np.array(self.shape))).all(axis=1))

    def refined(self, cell: Sequence[int]) -> Lattice:
        """With further candidates around a cell; itself where there are none."""
        axes = tuple(axis.refined(i) for axis, i in zip(self.axes, cell, strict=True))
        return self if all(a is b for a, b in zip(axes, self.axes, strict=True)) else Lattice(axes)


def lattice(space: Mapping[str, BaseDistribution], roles: Mapping[str, Role]) -> Lattice:
    """The lattice over a search space.

    Raises:
        InvalidInputError: If a role that was given does not fit its distribution.
    """
    return Lattice(tuple(axis(name, space[name], roles.get(name)) for name in sorted(space)))


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give `value`."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and value == _legal(distribution, value)


@lru_cache(maxsize=512)
def axis(name: str, distribution: BaseDistribution, role: Role | None) -> Axis:
    """The axis of one parameter; `role=None` infers it from the name.

    Raises:
        InvalidInputError: If a given role does not fit the distribution.
    """
    is_category = isinstance(distribution, CategoricalDistribution)
    if isinstance(distribution, CategoricalDistribution) and not _is_ordered(distribution):
        choices = distribution.choices
        role_of(name, distribution, role)
        places = np.arange(len(choices), dtype=np.float64)
        return Axis(name, "other", distribution, choices, places, log=False, ordered=False)
    found = role_of(name, distribution, role)
    values = _candidates(distribution, found)
    high = float(values[-1])
    acts_by_decades = found != "other" or getattr(distribution, "log", False)
    log = acts_by_decades and high > 0 and (float(values[0]) > 0 or not is_category)
    return Axis(name, found, distribution, values, _coordinates(values, log=log), log)


def _is_ordered(distribution: CategoricalDistribution) -> bool:
    """Whether the choices are distinct numbers, or texts that say such."""
    numbers = [number(choice) for choice in distribution.choices]
    return None not in numbers and len(set(numbers)) == len(numbers)


def _coordinates(values: Sequence[Any], *, log: bool) -> Floats:
    """[n] of candidates in ascending order; a learning rate of 0 is a step below the smallest."""
    numbers = np.array([float(value) for value in values])
    if not log:
        apart = numbers - numbers[0]
        return np.asarray(apart / (apart[-1] or 1.0))
    positive = np.log10(numbers[numbers > 0])
    return np.array([positive[0] - 0.1, *positive]) if numbers[0] == 0 else positive


@lru_cache(maxsize=64)
def offsets(shape: Cell, unordered: Collection[int] = ()) -> NDArray[np.int64]:
    """The moves [A, D] on a lattice, in cells; row 0 is "stay".

    Every axis moves by 1, 2, 4, ... cells in both directions, those of categories (`unordered`) by
    any number, alone or together with one other axis. On lattices of many axes the pairs are
    thinned (equal sizes only, then none), so that there are at most about a thousand moves.
    """
    sizes = [range(1, min(n, _ALL)) if d in unordered else _SIZES for d, n in enumerate(shape)]
    steps = [[s * sign for s in sizes[d] if s < n for sign in (1, -1)] for d, n in enumerate(shape)]
    singles = [_unit(shape, {d: s}) for d, some in enumerate(steps) for s in some]
    room = _MAX_MOVES - len(singles) - 1
    axes = itertools.combinations([d for d, some in enumerate(steps) if some], 2)
    pairs: list[tuple[int, int, int, int]] = []
    if len(both := list(axes)) <= room:  # else one of each were too many
        every = [(d, s, e, t) for d, e in both for s in steps[d] for t in steps[e]]
        equal = [pair for pair in every if abs(pair[1]) == abs(pair[3])]
        pairs = next((some for some in (every, equal) if len(some) <= room), [])
    doubles = [_unit(shape, {d: s, e: t}) for d, s, e, t in pairs]
    moves = np.array([_unit(shape, {}), *singles, *doubles], dtype=np.int64)
    moves.flags.writeable = False  # one array for all who ask
    return moves


def _unit(shape: Cell, steps: Mapping[int, int]) -> list[int]:
    return [steps.get(d, 0) for d in range(len(shape))]


def _place(choices: Sequence[Any], value: Any) -> float:
    """The number of a choice; -1 of what is none."""
    for place, choice in enumerate(choices):
        if choice is value or choice == value:
            return float(place)
    return -1.0


def _candidates(distribution: BaseDistribution, role: Role) -> tuple[Any, ...]:
    """The values of an axis in ascending order, all legal for the distribution, both ends too."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(sorted(distribution.choices, key=float))
    ranged = cast(Ranged, distribution)
    low, high = ranged.low, ranged.high
    if low == high:
        return (low,)
    if not math.isfinite(float(high) - float(low)):
        raise InvalidInputError(
            f"the width of a range must be finite, but `{distribution}` has {low:g} to {high:g}"
        )
    count = round((high - low) / ranged.step) + 1 if ranged.step else math.inf
    raw: Sequence[float] | Floats
    if count <= _ALL:
        raw = [low + (ranged.step or 0) * i for i in range(int(count))]
    elif role == "batch_size":
        raw = _half_octaves(low, high)
    elif role == "learning_rate" and low == 0:
        raw = np.array([0.0, *_even_decades(high * _ZERO, high, _POINTS_PER_DECADE[role])])
    elif low > 0 and (ranged.log or role == "learning_rate"):
        raw = _even_decades(low, high, _POINTS_PER_DECADE[role])
    else:
        raw = np.linspace(float(low), float(high), _LINEAR_POINTS if math.isinf(count) else _ALL)
    legal = {_legal(distribution, float(value)) for value in (low, *raw, high)}
    return tuple(sorted(legal))


def _half_octaves(low: float, high: float) -> Floats:
    """16, 24, 32, 48, 64, 96, ... as people write them."""
    octaves = 2.0 ** np.arange(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
    both = np.concatenate([octaves, 1.5 * octaves])
    return np.asarray(both[(both >= low) & (both <= high)])


def _even_decades(low: float, high: float, per_decade: int) -> Floats:
    """Values of as few digits as tell them apart, three at least."""
    n = math.ceil((math.log10(high) - math.log10(low)) * per_decade - 1e-9) + 1
    n = min(max(n, 5), _MAX_POINTS)
    apart = (math.log(high) - math.log(low)) / (n - 1)  # the relative step
    digits = min(max(3, math.ceil(-math.log10(apart)) + 2), 17)
    return np.array(
        [float(f"{value:.{digits}g}") for value in np.geomspace(float(low), float(high), n)]
    )


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
