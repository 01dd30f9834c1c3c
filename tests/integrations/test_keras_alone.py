"""Keras on TensorFlow where PyTorch, CleverHans and Gymnasium are not: fit, fine-tune and gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = """
import sys
from pathlib import Path
import keras
import numpy as np
import rlhf_tune
from rlhf_tune.cli import main
from rlhf_tune.keras import fine_tune
from rlhf_tune.safety import RobustAccuracy
x = np.random.default_rng(0).random((200, 4), dtype=np.float32)
y = (x[:, 0] > .5).astype(int)
keras.utils.set_random_seed(0)
layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2, "softmax")]
model = keras.Sequential(layers)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
floor = RobustAccuracy(x[100:], y[100:], eps=.01, at_least=.3)
validation = (x[100:], y[100:])
history = rlhf_tune.fit(model, x[:100], y[:100], epochs=4, validation_data=validation,
                        constraints=[floor], reach=True, verbose=0, seed=0)
tuned = fine_tune(model, x[:60], y[:60], validation_data=validation, budget=.5, seed=0)
folder = Path(FOLDER)
model.save(folder / "model.keras")
np.savez(folder / "data.npz", x=x, y=y)
status = main(["gate", str(folder / "model.keras"), "--data", str(folder / "data.npz"), "--eps",
               "0.001", "--min-robust-accuracy", "0.3", "--quiet"])
epochs = len(history.history["val_loss"])
print(json.dumps([epochs, floor(model).engine, status, "torch" in sys.modules]))
"""


@pytest.mark.keras
@pytest.mark.slow
def test_keras_needs_neither_torch_nor_cleverhans(
    tmp_path: Path, without: Callable[..., Any]
) -> None:
    run = f"FOLDER = {str(tmp_path)!r}\n" + RUN
    assert without(["torch", "cleverhans", "gymnasium"], run) == [4, "rlhf_tune", 0, False]
