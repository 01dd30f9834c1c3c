"""What earlier tasks say about learning rate and batch size: a surface, and how surfaces vary.

A prior is the mean and the covariance of one measure (performance, robust accuracy) over learning
rate x batch size, estimated from recorded tasks. Tasks count both as they are and with their
optimum moved along the learning rate, so that the prior stays wide: a problem whose inputs are
scaled by ten is still found (`rlhf_tune.policy.pretrain` learns it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.space import DEFAULTS, Lattice, Role

Array = NDArray[np.float64]

SHIPPED = Path(__file__).with_name("pretrained") / "prior.safetensors"
RATES = np.arange(-8.0, 3.01, 0.25)
"""[L] learning rates of the surfaces, in decades; beyond them the last value goes on."""
SIZES = np.log10(2.0 ** np.arange(2, 11))
"""[B] batch sizes of the surfaces, in decades."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Surfaces v = mean + sum of w_r factors_r + g + noise, w_r ~ N(0, 1), g a generic process.

    Attributes:
        mean: [L, B] larger is better, in units where 1 is the gap between useless and best.
        factors: [R, L, B] scaled eigenvectors of the covariance.
        noise: The variance between two training seeds.
        generic: The variance of g, which the factors do not explain.
    """

    mean: Array
    factors: Array
    noise: float
    generic: float

    def at(self, lattice: Lattice, positions: Array) -> tuple[Array, Array]:
        """The mean [M] and the factors [M, R] at positions [M, D] of a lattice.

        A role that is no logarithmic axis of the lattice is held at its default.
        """
        rates = _column(lattice, positions, "learning_rate", RATES)
        sizes = _column(lattice, positions, "batch_size", SIZES)
        values = self._interpolator(np.stack([rates, sizes], axis=1))
        return values[:, 0], values[:, 1:]

    @cached_property
    def _interpolator(self) -> RegularGridInterpolator:
        stacked = np.concatenate([self.mean[None], self.factors])
        return RegularGridInterpolator((RATES, SIZES), np.moveaxis(stacked, 0, -1))


FLAT = Prior(np.zeros((len(RATES), len(SIZES))), np.zeros((0, len(RATES), len(SIZES))), 0.01, 1.0)
"""Knows nothing: the generic process alone."""


def axis_of(lattice: Lattice, role: Role) -> int | None:
    """The first logarithmic axis of a role."""
    axes = lattice.axes
    return next((d for d, axis in enumerate(axes) if axis.role == role and axis.log), None)


def _column(lattice: Lattice, positions: Array, role: Role, grid: Array) -> Array:
    found = axis_of(lattice, role)
    default = np.full(len(positions), math.log10(DEFAULTS[role]))
    decades = default if found is None else positions[:, found]
    return np.asarray(np.clip(decades, grid[0], grid[-1]))


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


def read_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file, in double precision.

    Raises:
        InvalidInputError: If it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name).astype(np.float64) for name in names}
    except (OSError, SafetensorError, TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"a policy file must be one that `rlhf-tune pretrain` wrote, but {path} cannot be "
            f"read ({exc})"
        ) from exc


def _prior(tensors: Mapping[str, Array], measure: str) -> Prior:
    mean, factors, variances = (tensors[f"{measure}.{key}"] for key in _KEYS)
    shape = (len(RATES), len(SIZES))
    if mean.shape != shape or factors.shape[1:] != shape or variances.shape != (2,):
        raise ValueError(f"{measure} has shapes {mean.shape} and {factors.shape}")
    if not all(np.isfinite(part).all() for part in (mean, factors, variances)):
        raise ValueError(f"{measure} has values that are not finite")
    return Prior(mean, factors, *(float(v) for v in variances))


_KEYS = ("mean", "factors", "variances")


def save(priors: Mapping[str, Prior], path: Path, about: Mapping[str, str]) -> None:
    """Write priors in single precision, with what they are `about` as metadata."""
    write_tensors(
        {
            f"{measure}.{key}": np.asarray(value, dtype=np.float32)
            for measure, prior in priors.items()
            for key, value in zip(
                _KEYS, (prior.mean, prior.factors, [prior.noise, prior.generic]), strict=True
            )
        },
        path,
        about,
    )


def write_tensors(
    tensors: Mapping[str, NDArray[np.float32]], path: Path, about: Mapping[str, str]
) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.numpy import save as encoded

    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(encoded(contiguous, metadata=dict(about)))
    partial.replace(path)
