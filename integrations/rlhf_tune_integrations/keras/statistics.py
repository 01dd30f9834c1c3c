"""Statistics of a model: those of BatchNormalization, which lag behind; and what it knows."""

from __future__ import annotations

import math
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


def knowledge(model: keras.Model, batches: Iterable[tuple[Any, Any, Any]]) -> float:
    """The loss of training samples, relative to that with the targets of others.

    Of a model that guesses it is about 1; NaN where there are no targets.

    Args:
        model: Called in evaluation mode.
        batches: Inputs, targets and weights of each.
    """
    own = others = 0.0
    for x, y, weight in batches:
        if y is None:
            return math.nan
        outputs = model(x, training=False)
        swapped = keras.tree.map_structure(lambda t: keras.ops.roll(t, 1, axis=0), y)
        for_own, for_others = (
            keras.ops.stop_gradient(model.compute_loss(x, t, outputs, weight, training=False))
            for t in (y, swapped)
        )
        own, others = own + float(for_own), others + float(for_others)
    return own / others if 0 < others < math.inf else math.nan
