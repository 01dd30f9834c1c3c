"""Keras trainers of small nets with all that is hard to replay."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
SAMPLES = 39
X = RNG.normal(size=(SAMPLES, 4)).astype("float32")
X[:, 0] = np.arange(SAMPLES) / SAMPLES  # who is who
Y = RNG.integers(0, 3, SAMPLES)
VALIDATION = X[:10], Y[:10]


def network(*layers: Any, dropout_seed: int | None = None, **compiled: Any) -> Any:
    """A small net with all that is hard to replay."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=dropout_seed),
            *layers,
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": "adam", "loss": loss, "metrics": ["accuracy"], **compiled})
    return model


def eager(**compiled: Any) -> Any:
    """The same without the time of tracing, for short tests."""
    return network(run_eagerly=True, **compiled)


def seeded() -> Any:
    """Without the streams from which Keras' own loop draws too."""
    return eager(dropout_seed=0)


def named() -> Any:
    """With inputs that have names."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="named")
    model = keras.Model({"named": inputs}, keras.layers.Dense(3, "softmax")(inputs))
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def trainer(model: Any, **arguments: Any) -> Any:
    from rlhf_tune_integrations.keras import KerasTrainer

    data = {"x": X, "y": Y, "validation_data": VALIDATION, "batch_size": 8, **arguments}
    return KerasTrainer(model, **data)


def state(run: Any) -> dict[str, Any]:
    import keras

    model = run.model
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return {
        str(i): keras.ops.convert_to_numpy(keras.ops.copy(variable.value))
        for i, variable in enumerate(variables)
    }


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def watch(run: Any) -> Callable[[], Sequence[int]]:
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
