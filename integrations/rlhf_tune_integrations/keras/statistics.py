"""Running statistics of BatchNormalization, which lag behind weights that move fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras


def normalising(model: keras.Model) -> Sequence[Any]:
    """The layers whose running statistics training moves; frozen ones do not."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def refresh(model: keras.Model, layers: Sequence[Any], inputs: Iterable[Any]) -> None:
    """Put the mean over batches in place of the running statistics.

    Args:
        model: Called in training mode; what else this changes, such as the seeds of dropout, is
            the caller's to put back.
        layers: Of it, as `normalising` finds them.
        inputs: Batches of them.
    """
    momenta = [layer.momentum for layer in layers]
    try:
        for number, x in enumerate(inputs):
            for layer in layers:
                layer.momentum = number / (number + 1)  # a plain mean, in place of a running one
            model(x, training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
