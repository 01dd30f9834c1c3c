"""The forward pass of a Keras model up to its logits."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

import keras

from rlhf_tune.frameworks import Link

Forward = Callable[[Any], Any]

_SCALARS = (bool, int, float, complex, str)
_NOTES = {
    *("built", "compiled", "stop_training", "loss", "optimizer", "supports_jit"),
    *("train_function", "test_function", "predict_function"),
    *("steps_per_execution", "unrolled_steps_per_execution"),
}
_LINKS = (keras.activations.softmax, keras.activations.sigmoid)


def is_symbolic(model: keras.Model) -> bool:
    """Whether the model is a graph of layers (Sequential or functional), not a subclass."""
    return bool(getattr(model, "outputs", None))


def whole_of(model: keras.Model) -> Forward:
    """The model as it is served, held weakly."""
    this = weakref.ref(model)

    def whole(x: Any) -> Any:
        alive = this()
        assert alive is not None  # noqa: S101 - its caller holds it
        return alive(x, training=False)

    return whole


def version_of(model: keras.Model) -> tuple[Any, ...]:
    """Changes with what a compiled program has fixed: the layers, and settings of theirs.

    Weights are no part of it: programs read them as they are.
    """
    layers = [model, *model._flatten_layers(include_self=False)]
    graph = id(model.outputs[0]) if is_symbolic(model) else None
    return graph, *(_settings(layer) for layer in layers)


def _settings(layer: keras.Layer) -> tuple[Any, ...]:
    """A layer's numbers, names and functions that are not Keras' own notes."""
    plain = tuple(
        (name, value if isinstance(value, _SCALARS) else id(value))
        for name, value in sorted(vars(layer).items())
        if not name.startswith("_")
        and name not in _NOTES
        and (value is None or isinstance(value, _SCALARS) or callable(value))
        and not isinstance(value, types.MethodType)
    )
    return id(layer), layer.dtype_policy.name, plain


def without_link(model: keras.Model) -> tuple[Forward | None, Link | None]:
    """The model up to its logits where its last layer is a link, and what the whole returns.

    Only graphs of layers that are called as they stand are taken apart; whether the parts are the
    whole is then measured.
    """
    if not _is_graph(model):
        return None, None
    last = _last(model)
    if last is None:
        return None, None
    if _activation(last) is keras.activations.linear:
        return None, "logit"
    body = _strip(model.inputs, model.outputs[0])
    return body, None if body is None else "probability"


def link_of(model: keras.Model) -> Link | None:
    """What the outputs are, where the last layer tells."""
    last = _last(model) if _is_graph(model) else None
    activation = None if last is None else _activation(last)
    if activation is keras.activations.linear:
        return "logit"
    return "probability" if activation in _LINKS else None


def _is_graph(model: Any) -> bool:
    """Whether calling a model is calling its layers one after the other, and no more."""
    return (
        isinstance(model, keras.Model)
        and is_symbolic(model)
        and type(model).call.__module__.partition(".")[0] == "keras"
        and type(model).__call__ is keras.Layer.__call__
        and "call" not in vars(model)
    )


def _last(model: keras.Model) -> keras.Layer | None:
    """The layer that makes the outputs; None where it is not seen."""
    layer = model.outputs[0]._keras_history.operation
    if isinstance(layer, keras.Model):
        return _last(layer) if _is_graph(layer) else None
    return layer if isinstance(layer, keras.Layer) else None


def _activation(layer: keras.Layer) -> Any:
    """The last activation of a layer of Keras itself; None where there is more to it."""
    if type(layer) is keras.layers.Softmax:
        return keras.activations.softmax if layer.axis in (-1, 1) else None
    known = type(layer) in (keras.layers.Dense, keras.layers.Activation)
    plain = known and getattr(layer, "quantization_mode", None) is None
    return layer.activation if plain and "call" not in vars(layer) else None


def _strip(inputs: list[Any], output: Any) -> Forward | None:
    """Of a graph of layers: its forward pass without the last activation, weights shared."""
    layer, node, _ = output._keras_history
    before = layer._inbound_nodes[node].input_tensors
    if len(before) != 1:
        return None
    nested = isinstance(layer, keras.Model)
    tail = _strip(layer.inputs, layer.outputs[0]) if nested else _strip_layer(layer)
    if tail is None:
        return None
    if before[0] is inputs[0]:
        return tail
    body = keras.Model(inputs, before[0], name="rlhf_tune_body")
    return lambda x: tail(body(x, training=False))


def _strip_layer(layer: keras.Layer) -> Forward | None:
    if _activation(layer) not in _LINKS:
        return None
    if type(layer) is not keras.layers.Dense:
        return lambda x: x

    def affine(x: Any) -> Any:
        scores = keras.ops.matmul(keras.ops.cast(x, layer.kernel.dtype), layer.kernel)
        return scores if layer.bias is None else scores + layer.bias

    return affine
