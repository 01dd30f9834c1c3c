"""Linear models of torch and Keras whose worst case has a closed form, and data for them."""

import random
from typing import Any

import numpy as np
import pytest

from rlhf_tune.safety import RobustAccuracy

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.random((200, 6)).astype(np.float32)
W = RNG.normal(size=(6, 2)).astype(np.float32)
Y = ((X - 0.5) @ W).argmax(axis=1)
Y[::7] = 1 - Y[::7]
BIAS = -0.5 * W.sum(axis=0)


def worst_case(x: Any, y: Any, eps: float) -> Any:
    """Whether logits x @ W + BIAS stay right within the box and [0, 1], in closed form."""
    pull = (W[:, 1] - W[:, 0]).astype(float) * np.where(y == 1, -1, 1)[:, None]
    corner = np.where(pull > 0, np.minimum(x + eps, 1), np.maximum(x - eps, 0))
    return ((corner - 0.5) * pull).sum(axis=1) < 0


ROBUST = worst_case(X, Y, 0.1)


def measure(model: Any, x: Any = X, y: Any = Y, **arguments: Any) -> Any:
    return RobustAccuracy(x, y, **{"eps": 0.1, "at_least": 0.5, **arguments})(model)


def linear(scale: float = 1.0, shift: float = 0.0, outputs: int = 2) -> Any:
    layer = torch.nn.Linear(6, outputs)
    weights, bias = (W, BIAS) if outputs == 2 else (W[:, 1:] - W[:, :1], BIAS[1:] - BIAS[:1])
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(scale * weights.T))
        layer.bias.copy_(torch.as_tensor(scale * bias + shift))
    return layer


def keras_linear(scale: float = 1.0, kind: str = "softmax") -> Any:
    import keras

    single = kind.startswith("single")
    weights = (W[:, 1:] - W[:, :1], BIAS[1:] - BIAS[:1]) if single else (W, BIAS)
    inputs = keras.Input((6,))
    if kind == "subclass":

        class Model(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.dense = keras.layers.Dense(2)

            def call(self, x: Any, training: bool | None = None) -> Any:
                return self.dense(x)

        model = Model()
        model(X[:1])
    elif kind == "nested":
        inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")])
        model = keras.Model(inputs, inner(keras.layers.Identity()(inputs)))
    elif kind in ("softmax layer", "activation layer"):
        plain = kind == "softmax layer"
        last = keras.layers.Softmax() if plain else keras.layers.Activation("softmax")
        model = keras.Sequential([inputs, keras.layers.Dense(2), last])
    else:
        activation = {"single sigmoid": "sigmoid", "softmax": "softmax"}.get(kind)
        model = keras.Sequential([inputs, keras.layers.Dense(1 if single else 2, activation)])
    model.set_weights([(scale * value).astype(np.float32) for value in weights])
    return model


def random_streams() -> Any:
    state = np.random.get_state()  # noqa: NPY002 - the global stream is what must not move
    return random.getstate(), str(state)
