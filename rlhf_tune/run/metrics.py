"""Metrics that users' functions return, as numbers or one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError


def as_metrics(returned: Any) -> dict[str, float]:
    """Metrics by name, each a number.

    Args:
        returned: By a function of the user's: a mapping of names to numbers, or tensors and
            arrays of one number.

    Raises:
        InvalidInputError: If it is none.
    """
    if not isinstance(returned, Mapping):
        raise InvalidInputError(
            f"metrics must be a mapping of names to numbers, as {{'val_loss': 0.5}}, "
            f"but got {type(returned).__name__}"
        )
    return {str(name): _number(str(name), value) for name, value in returned.items()}


def _number(name: str, value: Any) -> float:
    array = as_array(f"the metric {name!r}", value)
    if array.size != 1:
        raise InvalidInputError(
            f"the metric {name!r} must be one number, but has the shape {array.shape}; "
            f"return its mean"
        )
    return float(array.reshape(()))
