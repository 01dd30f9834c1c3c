"""The rules of samples and of the figures beside them, checked before any model is asked."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError

PerFeature = float | NDArray[np.float64]
"""A number, or one for each feature: an array that broadcasts to a sample's shape."""

_LEAST_REACH = 1e-3  # of the range of the data: below it eps is likely in other units


def check_samples(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Inputs [N, ...] and their true labels [N] as arrays; nothing is copied without need.

    Raises:
        InvalidInputError: If they are empty, differ in length, hold NaN or infinities, or the
            labels are not integers of one dimension.
    """
    x, y = as_array("`x`", x), as_array("`y`", y)
    if x.dtype.kind not in "fiu":
        raise InvalidInputError(f"`x` must hold floats or integers, but got dtype {x.dtype}")
    if x.ndim < 2 or x.size == 0:
        raise InvalidInputError(
            f"`x` must have the shape [N, ...] with N >= 1, but got {x.shape}; "
            f"a single sample is x[None]"
        )
    if not np.isfinite(x).all():
        bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
        raise InvalidInputError(
            f"`x` must be finite, but values of {bad.sum()} samples are NaN or infinite, "
            f"first of row {int(bad.argmax())}"
        )
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
    if y.max() > np.iinfo(np.int64).max:
        raise InvalidInputError(f"labels must be classes, but `y` has {y.max()}")
    return y.astype(np.int64)


def distinct_rows(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.intp]:
    """Which samples count: the first of each set of equal ones (x and label).

    They come in an order of their own, by a hash of their values, so that a measurement on them
    does not depend on the order in which they were handed in.
    """
    keys = row_keys(x, y)
    _, first = np.unique(keys, return_index=True)
    return np.asarray(first)


def row_keys(*arrays: NDArray[Any]) -> NDArray[Any]:
    """A hash [N] of each row of all arrays [N, ...] together; equal rows have equal hashes.

    Numbers count by their value, whatever their type; -0.0 equals 0.0.
    """
    digests = [
        hashlib.blake2b(
            b"".join((row.astype(np.float64) + 0.0).tobytes() for row in rows), digest_size=16
        ).digest()
        for rows in zip(*arrays, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=[("high", ">u8"), ("low", ">u8")])


def check_apart(members: NDArray[Any], holdout: NDArray[Any]) -> None:
    """Raise `InvalidInputError` if samples [N, ...] and [M, ...] share one: nothing could leak.

    Floats are compared at the precision that both have.
    """
    both = members.dtype.kind == holdout.dtype.kind == "f"
    common = min(members.dtype, holdout.dtype, key=lambda kind: kind.itemsize) if both else None
    seen, others = (row_keys(x if common is None else x.astype(common)) for x in (members, holdout))
    shared = int(np.isin(others, seen).sum())
    if shared:
        raise InvalidInputError(
            f"the holdout must be samples that the model has not seen, but {shared} of "
            f"{len(holdout)} are among the members; leave them out of one side"
        )


def check_bounds(x: NDArray[Any], bounds: Any) -> tuple[PerFeature, PerFeature]:
    """The range of the data, which `x` must keep.

    Args:
        x: Samples [N, ...].
        bounds: (low, high), each a number or one for each feature.

    Raises:
        InvalidInputError: If the bounds are not finite and rising, do not fit a sample's shape,
            or `x` leaves them.
    """
    try:
        given_low, given_high = bounds
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"`bounds` must be (low, high) with low < high, but got {bounds!r}"
        ) from exc
    low = per_feature("`bounds[0]`", given_low, x)
    high = per_feature("`bounds[1]`", given_high, x)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and np.all(low < high)):
        raise InvalidInputError(f"`bounds` must be (low, high) with low < high, but got {bounds}")
    beyond = (x < low) | (x > high)
    if beyond.any():
        place = np.unravel_index(int(beyond.argmax()), x.shape)
        raise InvalidInputError(
            f"`x` must lie within bounds=({shown(low)}, {shown(high)}), but spans "
            f"[{x.min():g}, {x.max():g}], and x[{', '.join(map(str, place))}] is {x[place]:g}; "
            f"rescale it, or pass the bounds of its units"
        )
    return low, high


def check_eps(eps: Any, x: NDArray[Any], bounds: tuple[PerFeature, PerFeature]) -> PerFeature:
    """The radius of the attack in the units of the data; 0 means clean data.

    Raises:
        InvalidInputError: If it is negative, beyond the range, below one step of integers, or
            does not fit a sample's shape.
    """
    reach = np.asarray(bounds[1] - bounds[0])
    radius = per_feature("`eps`", eps, x)
    if not np.all((radius >= 0) & (radius <= reach)):
        largest = float(np.nanmax(radius)) if np.isfinite(radius).any() else float("nan")
        remedy = "divide by 255?" if 1 < largest <= 255 else "it is in the units of `x`"
        raise InvalidInputError(
            f"`eps` must be within the data range (0, {shown(reach)}), "
            f"but got {shown(radius)}; {remedy}"
        )
    if x.dtype.kind in "iu" and np.any((radius > 0) & (np.asarray(radius) < 1)):
        raise InvalidInputError(
            f"`eps` must be at least 1 for integer data, but got {shown(radius)}; "
            f"multiply it by 255, or convert `x` to float and pass its bounds"
        )
    return radius


def per_feature(name: str, values: Any, x: NDArray[Any]) -> PerFeature:
    """A number, or an array that broadcasts to the shape of a sample of `x` [N, ...].

    Raises:
        InvalidInputError: If it does not.
    """
    array = as_array(name, values).astype(np.float64)
    if array.ndim == 0:
        return float(array)
    try:
        np.broadcast_to(array, x.shape[1:])
    except ValueError as exc:
        raise InvalidInputError(
            f"{name} must be a number or fit the shape of a sample, {x.shape[1:]}, "
            f"but has the shape {array.shape}"
        ) from exc
    return array


def doubt_of_units(
    eps: PerFeature, x: NDArray[Any], bounds: tuple[PerFeature, PerFeature]
) -> list[str]:
    """Why the units of `eps` may not be those of the data; empty where they may well be."""
    radius, reach = np.asarray(eps), np.asarray(bounds[1] - bounds[0])
    tiny = radius < _LEAST_REACH * reach
    if x.dtype.kind != "f" or not np.any(radius > 0) or not np.all(tiny | (radius == 0)):
        return []
    if np.abs(x).max() <= 1:
        return []
    return [
        f"eps {shown(radius)} is below a thousandth of the data's range, and the data exceed 1 "
        f"(up to {np.abs(x).max():g}); eps must be in the units of `x`: is it a fraction of 255?"
    ]


def shown(value: Any) -> str:
    """A number, or the span of several."""
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def as_number(name: str, value: Any) -> float:
    """One number of any array library as a float; infinities and NaN are numbers too.

    Raises:
        InvalidInputError: If it is not one number.
    """
    array = as_array(name, value)
    if array.ndim:
        raise InvalidInputError(
            f"{name} must be one number, but got an array of the shape {array.shape}"
        )
    return float(array)


def check_fraction(name: str, value: float) -> float:
    """Return `value`; raise `InvalidInputError` unless it lies within [0, 1]."""
    fraction = as_number(f"`{name}`", value)
    if not 0 <= fraction <= 1:
        raise InvalidInputError(
            f"`{name}` must be a fraction within [0, 1], but got {value}; 0.5 means 50 %"
        )
    return fraction


def check_count(name: str, value: int) -> int:
    """Return `value`; raise `InvalidInputError` unless it is a whole number above zero."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"`{name}` must be a whole number >= 1, but got {value!r}")
    return int(value)
