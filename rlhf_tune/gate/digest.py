"""Names for content: SHA-256 of bytes, of arrays and of JSON documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def of_bytes(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def of_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of named arrays, whatever file they came from.

    In the order of the names: name, type and shape as one line of JSON, then the numbers in C
    order and little endian.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        plain = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        total.update(canonical([name, plain.dtype.str, list(plain.shape)]).encode() + b"\n")
        total.update(plain.tobytes())
    return total.hexdigest()


def canonical(document: Any) -> str:
    """JSON in one form only: keys sorted, no spaces, ASCII; NaN and infinities are refused."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def of_document(document: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON document's canonical form, without its own entry ``digest``."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return of_bytes(canonical(rest).encode())
