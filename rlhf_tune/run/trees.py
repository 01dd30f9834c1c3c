"""Plain values as JSON beside arrays: nothing that is read is ever executed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError

Arrays = dict[str, NDArray[Any]]


def taken_apart(value: Any) -> tuple[Any, Arrays]:
    """What JSON can hold of plain values, and the arrays in them.

    An array is named after what it holds, so that equal ones are kept once, and a damaged one is
    recognised. JSON has neither tuples nor keys that are numbers nor infinities, and a mapping of
    its own stands for each.

    Raises:
        InvalidInputError: If something is neither a number, a text, None, an array nor a list,
            tuple or mapping of them.
    """
    arrays: Arrays = {}
    return _apart(value, arrays), arrays


def put_together(document: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The values of which `taken_apart` made a document and arrays.

    Raises:
        KeyError: If an array is missing.
        ValueError: If the document is no such thing.
    """
    if isinstance(document, list):
        return [put_together(each, arrays) for each in document]
    if not isinstance(document, dict):
        return document
    ((kind, inside),) = document.items()
    if kind == "array":
        return arrays[inside]
    if kind == "float":
        return float(inside)
    if kind == "tuple":
        return tuple(put_together(each, arrays) for each in inside)
    if kind == "mapping":
        return {put_together(k, arrays): put_together(v, arrays) for k, v in inside}
    raise ValueError(f"no value is written as {kind!r}")


def name_of_array(array: NDArray[Any]) -> str:
    """A digest of what it holds, of its type and of its shape."""
    digest = hashlib.blake2b(f"{array.dtype.str} {array.shape} ".encode(), digest_size=16)
    digest.update(np.asarray(array, order="C").data)
    return digest.hexdigest()


def _apart(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [_apart(each, arrays) for each in value]
    if type(value) is tuple:
        return {"tuple": [_apart(each, arrays) for each in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_apart(k, arrays), _apart(v, arrays)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        name = name_of_array(value)
        arrays[name] = np.asarray(value, order="C")
        return {"array": name}
    raise InvalidInputError(
        f"what a run writes must be numbers, texts, arrays, lists, tuples and mappings, but it has "
        f"a {type(value).__name__}: {value!r:.80}; leave that out of the objects' states"
    )
