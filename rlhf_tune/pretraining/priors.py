"""Learns a prior from recorded tasks: a list of their surfaces, or how these vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from rlhf_tune.study.prior import RATES, SIZES, Prior, plain

Array = NDArray[np.float64]

SHIFTS = np.arange(-1.5, 1.6, 0.5)
"""Decades by which the surfaces of a list are moved."""
# Chosen on validation tasks, plain and with their optimum 1.4 decades lower:
_SHIFT_WEIGHTS = np.exp(-0.15 * SHIFTS**2)
_GENERIC = np.array([0.01, 0.2, 1.0])  # how large the difference from a listed surface may be,
_GENERIC_WEIGHTS = np.array([0.6, 0.25, 0.15])  # and how likely; 1 is for tasks of other kinds

# Not tuned:
_SAMPLED = np.array([-1.4, -0.7, 0.0, 0.7, 1.4])  # decades, of which a Gaussian learns
_SAMPLED_WEIGHTS = np.exp(-0.5 * _SAMPLED**2)
_RANK = 24
_LEFT_OVER = 0.02  # variance


@dataclass(frozen=True, eq=False)
class Recorded:
    """One measure of one task over a grid.

    Attributes:
        family: The underlying data; families count by the root of their number of tasks.
        rates: [l] learning rates in decades, ascending.
        sizes: [b] batch sizes in decades, ascending.
        values: [S, l, b] larger is better, of S training seeds; 1 is the gap between useless and
            best.
    """

    family: str
    rates: Array
    sizes: Array
    values: Array


def listed(tasks: Sequence[Recorded]) -> Prior:
    """Every surface as it is: a new task resembles one of them (performance)."""
    surfaces = np.array([_surface(task, 0.0) for task in tasks])
    return Prior(
        surfaces=surfaces,
        weights=_counts(tasks),
        shifts=SHIFTS,
        shift_weights=_SHIFT_WEIGHTS,
        factors=np.zeros((0, len(RATES), len(SIZES))),
        noise=_noise(tasks),
        generic=_GENERIC,
        generic_weights=_GENERIC_WEIGHTS,
    )


def gaussian(tasks: Sequence[Recorded]) -> Prior:
    """Mean and leading eigenvectors of the surfaces, as recorded and moved (robust accuracy)."""
    surfaces = np.array([_surface(task, shift) for task in tasks for shift in _SAMPLED])
    weights = np.outer(_counts(tasks), _SAMPLED_WEIGHTS).ravel()
    weights /= weights.sum()
    flat = surfaces.reshape(len(surfaces), -1)
    mean = weights @ flat
    _, singular, vectors = np.linalg.svd(
        (flat - mean) * np.sqrt(weights)[:, None], full_matrices=False
    )
    factors = singular[:_RANK, None] * vectors[:_RANK]
    shape = (len(RATES), len(SIZES))
    return plain(mean.reshape(shape), factors.reshape(-1, *shape), _noise(tasks), _LEFT_OVER)


def _counts(tasks: Sequence[Recorded]) -> Array:
    """[N] how much each task counts."""
    count = Counter(task.family for task in tasks)
    return np.array([count[task.family] ** -0.5 for task in tasks])


def _noise(tasks: Sequence[Recorded]) -> float:
    variances = [task.values.var(axis=0, ddof=1).mean() for task in tasks]
    return max(float(np.median(variances)), 1e-6)


def _surface(task: Recorded, shift: float) -> Array:
    """[L, B] the mean over seeds, its optimum moved by `shift` decades of learning rate.

    Beyond what was recorded the last value goes on.
    """
    rates = np.clip(RATES - shift, task.rates[0], task.rates[-1])
    sizes = np.clip(SIZES, task.sizes[0], task.sizes[-1])
    surface = RegularGridInterpolator((task.rates, task.sizes), task.values.mean(axis=0))
    return np.asarray(surface(tuple(np.meshgrid(rates, sizes, indexing="ij"))))
