"""The demo's network in Keras: the functions of `rlhf_tune.demo.job.Network`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune import files
from rlhf_tune.errors import require
from rlhf_tune.quiet import native_stderr_dropped

with native_stderr_dropped():
    tensorflow = require("tensorflow", extra="keras")
    keras = require("keras", extra="keras")
tensorflow.get_logger().setLevel("ERROR")  # that each trial's network is traced is no news


def build(shape: tuple[int, int, int], classes: int, seed: int) -> Any:
    """A small convolutional network from images [B, *shape] to logits [B, classes]."""
    layers = keras.layers
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes),
        ]
    )


def train(
    model: Any,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int], None],
) -> None:
    """Train by Adam on images [N, H, W, C] and labels [N]; `on_epoch` gets the epochs done."""
    keras.utils.set_random_seed(seed)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: on_epoch(epoch + 1))
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[report])


def logits(model: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits [N, classes] of images [N, H, W, C]."""
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)), dtype=np.float64)


def save(model: Any, path: Path) -> None:
    """Write the model, architecture and weights, in Keras' own format."""
    with files.whole(path) as partial:
        model.save(partial)
