"""Linear models whose worst case is known, and their files, for the tests of the gate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

EPS = 0.1
_RNG = np.random.default_rng(0)
X = _RNG.random((200, 4)).astype(np.float32)
Y = (np.arange(200) % 2).astype(np.int64)
X[:, 0] = np.where(Y == 1, 0.9, 0.1)  # tells the class, far from the border
X[:10, 0] = 0.5 - 0.05 * (2 * Y[:10] - 1)  # ten samples are wrong
SEX = np.where(_RNG.random(200) < 0.5, "female", "male")


def weights(fragile: float = 0.0) -> Any:
    """Of logits (x - .5) @ w: on the first input alone, or also on others that say nothing."""
    w = np.zeros((4, 2), np.float32)
    w[0, 1], w[1, 1], w[2, 1] = 4.0, fragile, -fragile
    return w - w.mean(axis=1, keepdims=True)


ROBUST, FRAGILE = weights(), weights(20.0)


def bias(w: Any) -> Any:
    return (-0.5 * w.sum(axis=0)).astype(np.float32)


def worst_case(w: Any, b: Any, x: Any = X, y: Any = Y, eps: float = EPS) -> Any:
    """Whether logits x @ w + b stay right within the box and [0, 1], in closed form."""
    sign = 2 * y - 1
    pull = (w[:, 1] - w[:, 0])[None].astype(float) * sign[:, None]
    corner = np.where(pull > 0, np.maximum(x - eps, 0), np.minimum(x + eps, 1))
    return (corner * pull).sum(axis=1) + (b[1] - b[0]) * sign > 0


def save_data(path: Path, **changes: Any) -> Path:
    arrays = {"x": X, "y": Y, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def linear() -> Any:
    """A factory: the model around the weights of a state dict."""
    from torch import nn

    return nn.Linear(4, 2)


def torch_linear(w: Any) -> Any:
    torch = pytest.importorskip("torch")

    model = linear()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(w.T.copy()))
        model.bias.copy_(torch.from_numpy(bias(w)))
    return model


def save_safetensors(path: Path, w: Any) -> Path:
    from safetensors.torch import save_file

    save_file(torch_linear(w).state_dict(), path)
    return path


def save_exported(path: Path, w: Any) -> Path:
    import torch

    batch = torch.export.Dim("batch")
    program = torch.export.export(
        torch_linear(w), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    return path


def keras_linear(w: Any, activation: Any = "softmax") -> Any:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation=activation)])
    model.set_weights([w, bias(w)])
    return model


def save_keras(path: Path, w: Any) -> Path:
    keras_linear(w).save(path)
    return path
