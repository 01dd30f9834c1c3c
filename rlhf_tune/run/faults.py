"""Where values that are not finite begin: what is said of data when a run goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def fault_in(parts: Mapping[str, Any], rows: Sequence[int] | None = None) -> str | None:
    """The first part of a batch that holds NaN or infinities, as "x of row 5"; None where none.

    Args:
        parts: Arrays [B, ...] by what they are called; those that hold no floats are passed over.
        rows: What the samples of the batch are called in the data; default their place in it.
    """
    for name, values in parts.items():
        array = np.asarray(values)
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1) if array.ndim else [True]
        place = int(np.argmax(bad))
        return f"{name} of row {place if rows is None else rows[place]}"
    return None
