"""The images that the panel is trained and measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TRAINED = {"digits": 1300, "MNIST": 10_000}


@dataclass(frozen=True)
class Images:
    """Images [N, 1, H, W] within 0 and 1, and their labels."""

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def digits(samples: int) -> Images:
    """scikit-learn's 1,797 digits of 8 x 8, of which the last are measured on."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return _images("digits", data.images / 16, data.target, data.images[1300:] / 16,
                   data.target[1300:], samples)  # fmt: skip


def mnist(path: Path, samples: int) -> Images:
    """MNIST from a file of the layout that Keras uses."""
    with np.load(path, allow_pickle=False) as file:
        parts = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    x, y, x_test, y_test = parts
    return _images("MNIST", x / 255, y, x_test / 255, y_test, samples)


def _images(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    samples: int,
) -> Images:
    first = slice(TRAINED[name])
    return Images(
        name,
        torch.as_tensor(x[first], dtype=torch.float32)[:, None],
        torch.as_tensor(y[first]).long(),
        torch.as_tensor(x_test[:samples], dtype=torch.float32)[:, None],
        torch.as_tensor(y_test[:samples]).long(),
    )
