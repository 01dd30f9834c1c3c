"""The Keras trainer: the contract, and each trap of Keras that was met."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.testing import TrainerContract

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.keras

from rlhf_tune_integrations._keras_trainer import KerasTrainer  # noqa: E402

RNG = np.random.default_rng(0)
SAMPLES = 39
X = RNG.normal(size=(SAMPLES, 4)).astype("float32")
X[:, 0] = np.arange(SAMPLES) / SAMPLES  # who is who
Y = RNG.integers(0, 3, SAMPLES)
VALIDATION = X[:10], Y[:10]


def network(**compiled: Any) -> Any:
    """A small net with all that is hard to replay."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ]
    )
    arguments = {"optimizer": "adam", "metrics": ["accuracy"], **compiled}
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), **arguments)
    return model


def trainer(model: Any = None, **arguments: Any) -> KerasTrainer:
    data = {"x": X, "y": Y, "validation_data": VALIDATION, "batch_size": 8, **arguments}
    return KerasTrainer(network() if model is None else model, **data)


def state(run: Any) -> dict[str, Any]:
    model = run.model
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return {
        str(i): keras.ops.convert_to_numpy(keras.ops.copy(variable.value))
        for i, variable in enumerate(variables)
    }


def watch(run: KerasTrainer) -> Callable[[], Sequence[int]]:
    """Writes down which samples the training step gets."""
    rows: list[int] = []
    step = run.model.train_function

    def noted(batches: list[Any]) -> Any:
        for x, *_ in batches:
            rows.extend(np.rint(np.asarray(x)[:, 0] * SAMPLES).astype(int).tolist())
        return step(batches)

    def read() -> list[int]:
        seen = rows.copy()
        rows.clear()
        return seen

    run.model.train_function = noted
    return read


class TestKerasTrainer(TrainerContract):
    def make(self):
        return trainer(seed=1)

    def state(self, trainer):
        return state(trainer)

    def watched(self):
        run = self.make()
        return run, watch(run)
