"""What users hand in as numbers, as NumPy arrays or one sentence; no framework is imported."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.foreign import shortened


def as_array(name: str, values: Any) -> NDArray[Any]:
    """Booleans, integers or floats of any array library; nothing is copied without need.

    Tensors may need a gradient or be on a device; numbers that NumPy lacks, such as bfloat16, are
    widened to float32.

    Args:
        name: Of the values, for messages, as it should be printed: "`x`".
        values: An array, tensor, data frame, list or number.

    Raises:
        InvalidInputError: If they are text, None, sparse, masked, ragged or complex.
    """
    try:
        array = _converted(values)
    except Exception as exc:  # array libraries raise what they like
        raise InvalidInputError(
            f"{name} must be an array of numbers, but got {type(values).__name__}: {shortened(exc)}"
        ) from exc
    if np.ma.is_masked(values):
        raise InvalidInputError(
            f"{name} must hold numbers, but some of its values are masked; fill them or drop them"
        )
    if array.dtype.kind == "V":  # bfloat16 and float8, which NumPy knows by name only
        array = array.astype(np.float32) if array.dtype.names is None else array
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{name} must hold numbers, but got {_described(values, array)}{_remedy(values)}"
        )
    return array


def _converted(values: Any) -> NDArray[Any]:
    if isinstance(values, list | tuple) and any(hasattr(value, "detach") for value in values):
        return np.asarray([_converted(value) for value in values])
    return _from_tensor(values) if hasattr(values, "detach") else np.asarray(values)


def _from_tensor(tensor: Any) -> NDArray[Any]:
    """Of torch, which refuses to convert what needs a gradient and what NumPy has no type for."""
    plain = tensor.detach().cpu()
    try:
        return np.asarray(plain.numpy())
    except TypeError:
        return np.asarray(plain.float().numpy())


def _described(values: Any, array: NDArray[Any]) -> str:
    if array.ndim == 0 and array.dtype.kind in "OUS":
        return f"{values!r}"[:60] if array.dtype.kind != "O" else type(values).__name__
    return f"the dtype {array.dtype}"


def _remedy(values: Any) -> str:
    if hasattr(values, "toarray"):
        return "; a sparse matrix is x.toarray()"
    return "; text and missing values must be turned into numbers first"
