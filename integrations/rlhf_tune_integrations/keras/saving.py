"""Snapshots of a Keras run as plain values, and what must be the same where they are taken up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from rlhf_tune.streams import plain_streams, revived_streams

_BITS = "bits"  # key of a mapping that stands for numbers of a type that NumPy lacks
_MOVED = ("learning_rate", "name", "inner_optimizer")  # by the run, or said otherwise


def plain(value: Any) -> Any:
    """Tensors, in whatever mappings and sequences, as arrays of their own."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    if not hasattr(value, "dtype"):
        return value
    # Keras' own conversion of bfloat16 goes by a way that NumPy 2 warns of.
    direct = keras.backend.backend() == "tensorflow" and hasattr(value, "numpy")
    array = np.array(value.numpy() if direct else keras.ops.convert_to_numpy(value))
    if array.dtype.kind == "V":
        bits = array.view(f"u{array.dtype.itemsize}")
        return {_BITS: bits, "type": array.dtype.name}
    return array


def revived(value: Any) -> Any:
    """What `plain` returned, with numbers of all types; they stay arrays."""
    if isinstance(value, Mapping) and _BITS in value:
        import ml_dtypes

        return value[_BITS].view(getattr(ml_dtypes, value["type"]))
    return value


def plain_of_streams(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Random streams, those of TensorFlow's operations among them."""
    return plain_streams({**kept, "generator": plain(kept.get("generator"))})


def streams_of_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """From what `plain_of_streams` returned."""
    return revived_streams(values)


def identity(model: keras.Model, variables: Iterable[keras.Variable]) -> dict[str, Any]:
    """What must be the same where a snapshot is taken up, by name.

    Names are left out: Keras counts layers up, so that an equal model has others.
    """
    return {
        "framework": f"keras on {keras.backend.backend()}",
        "layers": [type(layer).__name__ for layer in model._flatten_layers()],
        "variables": [[list(v.shape), str(v.dtype)] for v in variables],
        "optimizer": _optimizer(model.optimizer),
    }


def _optimizer(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Of an optimizer, and of one within it, kind and options."""
    config = {k: v for k, v in optimizer.get_config().items() if k not in _MOVED}
    inner = getattr(optimizer, "inner_optimizer", None)
    kind = [type(optimizer).__name__, repr(sorted(config.items()))]
    return kind if inner is None else [*kind, *_optimizer(inner)]
