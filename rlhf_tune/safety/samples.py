"""The rules of samples and of the figures beside them, checked before any model is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError


def check_samples(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Inputs [N, ...] and their true labels [N] as arrays; nothing is copied without need.

    Raises:
        InvalidInputError: If they are empty, differ in length, hold NaN or infinities, or the
            labels are not integers of one dimension.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "fiu":
        raise InvalidInputError(f"`x` must hold floats or integers, but got dtype {x.dtype}")
    if x.ndim < 2 or len(x) == 0:
        raise InvalidInputError(
            f"`x` must have the shape [N, ...] with N >= 1, but got {x.shape}; "
            f"a single sample is x[None]"
        )
    if not np.isfinite(x).all():
        bad = int(np.sum(~np.isfinite(x)))
        raise InvalidInputError(f"`x` must be finite, but {bad} values are NaN or infinite")
    return x, _check_labels(y, len(x))


def _check_labels(y: NDArray[Any], n: int) -> NDArray[np.int64]:
    if y.ndim != 1:
        column = y.ndim == 2 and y.shape[1] == 1
        remedy = "y[:, 0]" if column else "y.argmax(axis=1) turns one-hot rows into labels"
        raise InvalidInputError(f"`y` must have the shape [N], but got {y.shape}; {remedy}")
    if y.dtype.kind not in "iu":
        raise InvalidInputError(
            f"`y` must hold integer class labels, but got dtype {y.dtype}; "
            f"if they are classes, y.astype(int), and regression cannot be measured"
        )
    if len(y) != n:
        raise InvalidInputError(f"`x` and `y` must have the same length, but got {n} and {len(y)}")
    if y.min() < 0:
        raise InvalidInputError(f"labels must start at 0, but `y` has {y.min()}")
    return y.astype(np.int64)


def check_bounds(x: NDArray[Any], bounds: tuple[float, float]) -> tuple[float, float]:
    """The range of the data, which `x` must keep.

    Raises:
        InvalidInputError: If the bounds are not two finite rising numbers, or `x` leaves them.
    """
    if len(bounds) != 2 or not np.isfinite(bounds).all() or not bounds[0] < bounds[1]:
        raise InvalidInputError(f"`bounds` must be (low, high) with low < high, but got {bounds}")
    low, high = float(bounds[0]), float(bounds[1])
    if x.min() < low or x.max() > high:
        raise InvalidInputError(
            f"`x` must lie within bounds=({low:g}, {high:g}), but spans "
            f"[{x.min():g}, {x.max():g}]; rescale it, or pass the bounds of its units"
        )
    return low, high


def check_eps(eps: float, x: NDArray[Any], bounds: tuple[float, float]) -> float:
    """The radius of the attack in the units of the data; 0 means clean data.

    Raises:
        InvalidInputError: If it is negative, beyond the range, or below one step of integers.
    """
    low, high = bounds
    if not 0 <= eps <= high - low:
        remedy = "divide by 255?" if 1 < eps <= 255 else "it is in the units of `x`"
        raise InvalidInputError(
            f"`eps` must be within the data range (0, {high - low:g}), but got {eps}; {remedy}"
        )
    if x.dtype.kind in "iu" and 0 < eps < 1:
        raise InvalidInputError(
            f"`eps` must be at least 1 for integer data, but got {eps}; "
            f"multiply it by 255, or convert `x` to float and pass its bounds"
        )
    return float(eps)


def check_fraction(name: str, value: float) -> float:
    """Return `value`; raise `InvalidInputError` unless it lies within [0, 1]."""
    if not 0 <= value <= 1:
        raise InvalidInputError(
            f"`{name}` must be a fraction within [0, 1], but got {value}; 0.5 means 50 %"
        )
    return float(value)


def check_count(name: str, value: int) -> int:
    """Return `value`; raise `InvalidInputError` unless it is a whole number above zero."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"`{name}` must be a whole number >= 1, but got {value!r}")
    return int(value)
