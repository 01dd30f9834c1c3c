"""Small runs of `fit` for Keras, and of `model.fit` beside it."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.safety import constraint

keras_and_numpy_2 = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype("float32")
Y = (X[:, 0] + 0.3 * RNG.normal(size=90) > 0).astype("int64")
VALIDATION = X[60:], Y[60:]
X, Y = X[:60], Y[:60]


def network(rate: Any = 0.01, **compiled: Any) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    hidden = [
        keras.layers.Dense(8, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2, seed=0),
    ]
    return compile_for(rate, hidden, **compiled)


def small(rate: Any = 0.01, **compiled: Any) -> Any:
    """Less of it, for many steps."""
    import keras

    keras.utils.set_random_seed(0)
    return compile_for(rate, [keras.layers.Dense(4, "relu")], **compiled)


def eager(rate: Any = 0.01, **compiled: Any) -> Any:
    """And without the time of tracing, for few steps."""
    return small(rate, run_eagerly=True, **compiled)


def compile_for(rate: Any, hidden: list[Any], **compiled: Any) -> Any:
    import keras

    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": keras.optimizers.Adam(rate), "loss": loss, **compiled})
    return model


def fit(model: Any, **arguments: Any) -> Any:
    from rlhf_tune_integrations import keras as ours

    data = {"x": X, "y": Y, "batch_size": 30, "validation_data": VALIDATION, "verbose": 0}
    return ours.fit(model, **{**data, "epochs": 3, "seed": 0, **arguments})


def plain(model: Any, **arguments: Any) -> Any:
    data = {"x": X, "y": Y, "batch_size": 30, "validation_data": VALIDATION, "verbose": 0}
    return model.fit(**{**data, "epochs": 3, **arguments})


def values(model: Any) -> list[Any]:
    import keras

    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(keras.ops.copy(v.value)) for v in variables]


def assert_equal(ours: Any, theirs: Any) -> None:
    for a, b in zip(values(ours), values(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def kept(name: str = "kept") -> Any:
    """A constraint that always holds."""
    return constraint(name, lambda model: 0.0, at_most=1.0)


def listener() -> Any:
    """Writes down all that a callback hears."""
    import keras

    class Listener(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.heard = []

    def hook(name: str) -> Any:
        def heard(self, *arguments, logs=None):
            if arguments and isinstance(arguments[-1], dict | None):
                *arguments, logs = arguments
            self.heard.append((name, *arguments, dict(logs or {})))

        return heard

    for name in dir(keras.callbacks.Callback):
        if name.startswith(("on_train", "on_epoch", "on_test")):
            setattr(Listener, name, hook(name))
    return Listener()


def assert_at_best(model: Any, history: Any) -> None:
    """The best state may also be within an epoch, or before training."""
    losses = history.history.get("val_loss", [np.inf])
    assert model.evaluate(*VALIDATION, verbose=0) <= min(losses) * (1 + 1e-5)


EXTRA = {"learning_rate", "batch_size", "move", "rolled_back"}


def without(extra: set[str], logs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in logs.items() if key not in extra}
