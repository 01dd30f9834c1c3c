"""What earlier tasks say about learning rate and batch size.

A prior lists the surfaces of one measure (performance, robust accuracy) over learning rate x batch
size that were recorded on other tasks: a new task is taken to resemble one of them. Each counts as
it is and with its optimum moved along the learning rate, so that the prior stays wide: a problem
whose inputs are scaled by ten is still found. How a task differs from the surface that it resembles
is a Gaussian process (`rlhf_tune.study.surrogate`). `rlhf_tune.pretraining.priors` makes priors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.roles import Role
from rlhf_tune.study.space import DEFAULTS, Lattice
from rlhf_tune.tensors import SHIPPED, Tensor, read_tensors, write_tensors

Array = NDArray[np.float64]

RATES = np.arange(-8.0, 3.01, 0.25)
"""[L] learning rates of the surfaces, in decades; beyond them the last value goes on."""
SIZES = np.log10(2.0 ** np.arange(2, 11))
"""[B] batch sizes of the surfaces, in decades."""

KNOWN: tuple[Role, Role] = ("learning_rate", "batch_size")
"""The roles of which tasks say anything."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Tasks v = surface_p + sum of w_r factors_r + g + noise, w_r ~ N(0, 1), g a generic process.

    Attributes:
        surfaces: [N, L, B] larger is better, in units where 1 is the gap between useless and best.
        weights: [N] how much each counts, above 0.
        shifts: [S] decades by which each surface is moved along the learning rate; S N
            possibilities p in all.
        shift_weights: [S] how much each shift counts.
        factors: [R, L, B] of what the surfaces leave over; scaled eigenvectors of a covariance.
        noise: The variance between two training seeds.
        generic: [G] the variances that g may have.
        generic_weights: [G] their probabilities. A study does not change them: trials near each
            other say nothing of how far off the surface is elsewhere, but would claim to.
    """

    surfaces: Array
    weights: Array
    shifts: Array
    shift_weights: Array
    factors: Array
    noise: float
    generic: Array
    generic_weights: Array

    @cached_property
    def log_weights(self) -> Array:
        """[P] the logarithm of the probability of each possibility, surfaces outermost."""
        every = np.outer(self.weights, self.shift_weights).ravel()
        return np.asarray(np.log(every / every.sum()))

    @cached_property
    def mean(self) -> Array:
        """[L, B] the mean over all possibilities."""
        mean = self._possible.astype(np.float64) @ np.exp(self.log_weights)
        return np.asarray(mean).reshape(len(RATES), len(SIZES))

    def mean_at(self, places: Places) -> Array:
        """[M] the mean over all possibilities at M places."""
        return places.interpolated(self.mean.reshape(-1, 1))[:, 0]

    def means_at(self, places: Places, which: NDArray[np.int64] | None = None) -> Array:
        """[M, K] the surfaces of possibilities `which` [K] (all of them) at M places."""
        if not self._says:
            return np.zeros(
                (len(places.nodes), len(self.log_weights) if which is None else len(which))
            )
        return places.interpolated(self._possible if which is None else self._possible[:, which])

    def factors_at(self, places: Places) -> Array:
        """[M, R] the factors at M places."""
        if not len(self.factors):
            return np.zeros((len(places.nodes), 0))
        flat = self.factors.reshape(len(self.factors), len(RATES) * len(SIZES)).T
        return places.interpolated(flat)

    @cached_property
    def _says(self) -> bool:
        """Whether any surface is not flat."""
        return bool(self.surfaces.any())

    @cached_property
    def _possible(self) -> NDArray[np.float32]:
        """[L x B, P] the surfaces with all shifts; beyond the ends the last value goes on."""
        moved = [shifted(self.surfaces, shift) for shift in self.shifts]
        every = np.stack(moved, axis=1).reshape(-1, len(RATES) * len(SIZES))
        return np.ascontiguousarray(every.T, dtype=np.float32)


def plain(mean: Array, factors: Array, noise: float, generic: float) -> Prior:
    """A Gaussian prior: one surface [L, B], nowhere else, and its factors [R, L, B]."""
    one = np.ones(1)
    return Prior(mean[None], one, np.zeros(1), one, factors, noise, np.array([generic]), one)


FLAT = plain(np.zeros((len(RATES), len(SIZES))), np.zeros((0, len(RATES), len(SIZES))), 0.01, 1.0)
"""Knows nothing: the generic process alone. Its variances were not tuned."""


def shifted(surfaces: Array, decades: float) -> Array:
    """Surfaces [..., L, B] moved along the learning rate, to the next of `RATES`."""
    steps = round(decades / (RATES[1] - RATES[0]))
    sources = np.clip(np.arange(len(RATES)) - steps, 0, len(RATES) - 1)
    return surfaces[..., sources, :]


@dataclass(frozen=True)
class Places:
    """M places among the nodes of the grid of learning rates x batch sizes.

    Attributes:
        nodes: [M, 4] the nodes around each.
        shares: [M, 4] how much each of them counts; they add up to 1.
    """

    nodes: NDArray[np.int64]
    shares: Array

    @classmethod
    def at(cls, decades: Array) -> Places:
        """Around `decades` [M, 2] of learning rate and batch size; the ends go on for ever."""
        (i, up), (j, right) = (
            _between(decades[:, d], grid) for d, grid in enumerate((RATES, SIZES))
        )
        nodes = [(i + a) * len(SIZES) + j + b for a in (0, 1) for b in (0, 1)]
        shares = [u * r for u in (1 - up, up) for r in (1 - right, right)]
        return cls(np.stack(nodes, axis=1), np.stack(shares, axis=1))

    def interpolated(self, table: NDArray[np.floating[Any]]) -> Array:
        """[M, P] the columns of a table [L x B, P], linear in decades."""
        shares = self.shares.astype(table.dtype)  # single precision is twice as fast
        total = np.zeros((len(shares), table.shape[1]), dtype=table.dtype)
        for corner, rows in enumerate(self.nodes.T):
            values = table[rows]
            values *= shares[:, corner, None]
            total += values
        return total.astype(np.float64)


def places_of(lattice: Lattice, positions: Array) -> Places:
    """Positions [M, D] of a lattice as a prior sees them.

    A role that is no logarithmic axis of the lattice is held at its default.
    """
    return Places.at(np.stack([_column(lattice, positions, role) for role in KNOWN], axis=1))


def axis_of(lattice: Lattice, role: Role) -> int | None:
    """The first logarithmic axis of a role."""
    axes = lattice.axes
    return next((d for d, axis in enumerate(axes) if axis.role == role and axis.log), None)


def _column(lattice: Lattice, positions: Array, role: Role) -> Array:
    found = axis_of(lattice, role)
    default = np.full(len(positions), math.log10(DEFAULTS[role]))
    return default if found is None else positions[:, found]


def _between(values: Array, grid: Array) -> tuple[NDArray[np.int64], Array]:
    """Where values [M] lie in an even grid: the node below, and how far to the next, in [0, 1]."""
    at = np.clip((values - grid[0]) / (grid[1] - grid[0]), 0, len(grid) - 1)
    below = np.minimum(at.astype(np.int64), len(grid) - 2)
    return below, np.asarray(at - below)


@cache
def shipped(measure: str) -> Prior:
    """The prior of "performance" or "robustness" that comes with the package."""
    return load(SHIPPED)[measure]


def load(path: Path) -> dict[str, Prior]:
    """The priors of a file that `save` wrote, by measure.

    Raises:
        InvalidInputError: If the file is none.
    """
    tensors = read_tensors(path)
    try:
        return {name: _prior(tensors, name) for name in {key.partition(".")[0] for key in tensors}}
    except (KeyError, ValueError) as exc:
        raise InvalidInputError(
            f"a policy file must be one that `rlhf-tune pretrain` wrote, but {path} is not ({exc})"
        ) from exc


_KEYS = ("surfaces", "weights", "shifts", "shift_weights", "factors", "noise", "generic")


def _prior(tensors: Mapping[str, Array], measure: str) -> Prior:
    parts = [tensors[f"{measure}.{key}"] for key in _KEYS]
    surfaces, weights, shifts, shift_weights, factors, noise, generic = parts
    grid = (len(RATES), len(SIZES))
    expected = {
        "surfaces": (surfaces, (len(weights), *grid)),
        "shift_weights": (shift_weights, (len(shifts),)),
        "factors": (factors, (len(factors), *grid)),
        "noise": (noise, (1,)),
        "generic": (generic, (2, generic.shape[-1])),
    }
    for name, (part, shape) in expected.items():
        if part.shape != shape:
            raise ValueError(f"{measure}.{name} must have shape {shape}, but has {part.shape}")
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError(f"{measure} has values that are not finite")
    positive = (weights, shift_weights, noise, generic)
    if not all(part.size and (part > 0).all() for part in positive):
        raise ValueError(f"{measure} has weights or variances that are not above 0")
    return Prior(surfaces, weights, shifts, shift_weights, factors, float(noise[0]), *generic)


def save(priors: Mapping[str, Prior], path: Path, about: Mapping[str, str]) -> None:
    """Write priors, surfaces in half precision, with what they are `about` as metadata."""
    tensors: dict[str, Tensor] = {}
    for measure, p in priors.items():
        generic = np.stack([p.generic, p.generic_weights])
        noise = np.array([p.noise])
        parts = (p.surfaces, p.weights, p.shifts, p.shift_weights, p.factors, noise, generic)
        for key, value in zip(_KEYS, parts, strict=True):
            kind: type[np.floating[Any]] = np.float16 if key == "surfaces" else np.float32
            tensors[f"{measure}.{key}"] = value.astype(kind)
    write_tensors(tensors, path, about)
