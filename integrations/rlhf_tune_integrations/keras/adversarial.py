"""Inputs moved against a Keras model while it trains, on both backends, in graph mode too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.attacks import Box
from rlhf_tune.safety.remedy import Batch


def worst_outputs(model: keras.Model, batch: Batch, box: Box, *, steps: int) -> Any:
    """Outputs at moved inputs; see `Framework.worst_outputs`.

    The inputs are found in evaluation mode, as the model will be attacked: the statistics of
    BatchNorm would else be those of the attack's own batch, and move with every step of it. Random
    starts are drawn from Keras' global stream.

    Raises:
        InvalidInputError: If the inputs are no tensor of floats: integers have no gradient.
    """
    x = batch.x
    if isinstance(x, dict | list | tuple) or not keras.backend.is_float_dtype(_dtype(x)):
        kind = type(x).__name__ if isinstance(x, dict | list | tuple) else _dtype(x)
        raise InvalidInputError(
            f"adversarial training needs inputs that are one array of floats, but got {kind}; "
            f"convert them before the model, not within it"
        )
    return _called(model, _moved(model, batch, box, steps), training=True)


def _moved(model: keras.Model, batch: Batch, box: Box, steps: int) -> Any:
    x = ops.stop_gradient(batch.x)
    eps, low, high = (
        ops.convert_to_tensor(part, dtype=_dtype(x)) for part in (box.eps, *box.bounds)
    )
    # What augmentation has put beyond the bounds stays there.
    low = ops.minimum(x, ops.maximum(x - eps, low))
    high = ops.maximum(x, ops.minimum(x + eps, high))
    start = keras.random.uniform(ops.shape(x), -1.0, 1.0, dtype=_dtype(x))
    at = ops.minimum(ops.maximum(x + eps * start, low), high)
    size = ops.cast(ops.shape(x)[0], _dtype(x))

    def rise(inputs: Any) -> Any:
        # The sum, as the gradients of a mean over a large batch may vanish in half precision.
        loss = batch.loss(_called(model, inputs, training=False))
        return size * ops.cast(loss, _dtype(x))

    for _ in range(steps):
        signs = ops.nan_to_num(ops.sign(_gradient(rise, at)))
        at = ops.minimum(ops.maximum(at + eps * box.stride(steps) * signs, low), high)
    return ops.stop_gradient(at)


def _gradient(rise: Callable[[Any], Any], at: Any) -> Any:
    """Of a scalar in its inputs."""
    if keras.backend.backend() == "torch":
        import torch

        with torch.enable_grad():
            inputs = at.detach().requires_grad_()
            return torch.autograd.grad(rise(inputs), inputs)[0]
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(at)
        risen = rise(at)
    return tape.gradient(risen, at)


def _called(model: keras.Model, inputs: Any, *, training: bool) -> Any:
    told = {"training": training} if model._call_has_training_arg else {}
    return model(inputs, **told)


def _dtype(x: Any) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))
