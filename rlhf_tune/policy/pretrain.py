"""Learns a prior from recorded tasks: the mean of their surfaces, and how they vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from rlhf_tune.prior import RATES, SIZES, Prior

Array = NDArray[np.float64]

SHIFTS = (-1.4, -0.7, 0.0, 0.7, 1.4)  # decades of learning rate
_WEIGHTS = np.exp(-0.5 * np.square(SHIFTS))
_RANK = 24
_GENERIC = {"performance": 0.5, "robustness": 0.02}  # the variance left to the generic process


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


def learn(measure: str, tasks: Sequence[Recorded]) -> Prior:
    """Mean and leading eigenvectors of the surfaces, each as recorded and moved sideways."""
    surfaces = np.array([_surface(task, shift) for task in tasks for shift in SHIFTS])
    count = Counter(task.family for task in tasks)
    weights = np.concatenate([_WEIGHTS / count[task.family] ** 0.5 for task in tasks])
    weights /= weights.sum()
    flat = surfaces.reshape(len(surfaces), -1)
    mean = weights @ flat
    _, singular, vectors = np.linalg.svd(
        (flat - mean) * np.sqrt(weights)[:, None], full_matrices=False
    )
    factors = singular[:_RANK, None] * vectors[:_RANK]
    noise = np.median([task.values.var(axis=0, ddof=1).mean() for task in tasks])
    shape = (len(RATES), len(SIZES))
    return Prior(mean.reshape(shape), factors.reshape(-1, *shape), float(noise), _GENERIC[measure])


def _surface(task: Recorded, shift: float) -> Array:
    """[L, B] the mean over seeds, its optimum moved by `shift` decades of learning rate.

    Beyond what was recorded the last value goes on.
    """
    rates = np.clip(RATES - shift, task.rates[0], task.rates[-1])
    sizes = np.clip(SIZES, task.sizes[0], task.sizes[-1])
    surface = RegularGridInterpolator((task.rates, task.sizes), task.values.mean(axis=0))
    return np.asarray(surface(tuple(np.meshgrid(rates, sizes, indexing="ij"))))
