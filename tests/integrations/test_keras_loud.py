"""Keras `fit` never ends in silence: it names what is not finite, and a failure keeps the best."""

import math
from typing import Any

import numpy as np
import pytest
from keras_runs import VALIDATION, X, Y, assert_at_best, eager, fit, kept

from rlhf_tune.errors import DivergedError, InvalidInputError

pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:.*holds values that are not finite"),
]

KINDS = [("default", ()), ("bold", ()), ("constant", ()), ("constant", (kept(),))]


def spoiled(x: Any, row: int) -> Any:
    x = x.astype("float32")
    x[row] = math.nan
    return x


def line() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


def stream(x: Any, y: Any) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(10)


def finite(model: Any) -> bool:
    return all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize(("policy", "constraints"), KINDS)
@pytest.mark.parametrize("where", ["x", "y"])
def test_nan_in_training_data_is_named_by_its_row(
    policy: str, constraints: Any, where: str
) -> None:
    model = line()
    before = model.get_weights()
    data = {"x": X, "y": Y, where: spoiled(X if where == "x" else Y, 17)}
    with pytest.raises(DivergedError, match=rf"`{where}` holds .* row 17\b") as caught:
        fit(model, policy=policy, constraints=constraints, epochs=12, **data)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert len(getattr(caught.value.history, "discarded", [])) <= 4
    assert caught.value.best is model


@pytest.mark.parametrize("epochs", [6, 12])
def test_nan_in_a_stream_is_named_by_its_batch(epochs: int) -> None:
    with pytest.raises(DivergedError, match=r"first seen in x of row 5 of a batch\b"):
        fit(line(), x=stream(spoiled(X, 35), Y), y=None, batch_size=None, epochs=epochs)


@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_nan_in_validation_data_is_named_by_its_row(where: str, kind: str) -> None:
    x, y = VALIDATION
    data = (spoiled(x, 13), y) if where == "x" else (x, spoiled(y, 13))
    model = line()
    before = model.get_weights()
    with pytest.raises(InvalidInputError, match=rf"first in {where} of row 13\b"):
        fit(model, validation_data=data if kind == "arrays" else stream(*data))
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_a_plain_run_is_ended_by_validation_that_is_not_finite() -> None:
    data = VALIDATION[0], spoiled(VALIDATION[1], 13)
    with pytest.raises(DivergedError, match=r"'val_loss' must be finite.*row 13\b") as caught:
        fit(line(), policy="constant", validation_data=data)
    assert caught.value.history.epoch == []


def test_a_batch_of_finite_values_whose_loss_is_not_is_named() -> None:
    import keras

    model = line()

    def loss(y: Any, outputs: Any) -> Any:
        return keras.ops.sqrt(0.5 - keras.ops.cast(y, "float32"))

    model.compile("sgd", loss, run_eagerly=True)
    y = np.where(np.arange(30) < 20, 0, 1)
    with pytest.raises(InvalidInputError, match=r"begins in batch 2 .* after 20 samples"):
        fit(model, validation_data=(VALIDATION[0], y), validation_batch_size=10)


@pytest.mark.parametrize(("policy", "constraints"), KINDS)
def test_a_loss_that_turns_nan_ends_the_run_at_its_best_state(
    policy: str, constraints: Any
) -> None:
    import keras

    steps = 0

    class Model(keras.Sequential):
        def compute_loss(self, *args: Any, training: bool = True, **kwargs: Any) -> Any:
            nonlocal steps
            steps += training
            loss = super().compute_loss(*args, training=training, **kwargs)
            return loss * (math.nan if training and steps > 14 else 1)

    keras.utils.set_random_seed(0)
    model = Model([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    with pytest.raises(DivergedError, match=r"logarithms and\s+divisions") as caught:
        fit(model, policy=policy, constraints=constraints, epochs=20)
    history = caught.value.history
    assert len(history.epoch) > 2
    assert finite(model)
    assert_at_best(model, history)


@pytest.mark.parametrize(("policy", "constraints"), KINDS)
@pytest.mark.parametrize("raised", [OSError("disk full"), SystemExit(3)])
def test_an_exception_leaves_the_best_state(policy: str, constraints: Any, raised: Any) -> None:
    import keras

    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 3:
                self.model.set_weights([w + 5 for w in self.model.get_weights()])
                raise raised

    model = eager()
    with pytest.raises(type(raised)) as caught:
        fit(model, policy=policy, constraints=constraints, callbacks=[Fails()], epochs=20)
    assert caught.value.best is model
    assert caught.value.history.epoch[:3] == [0, 1, 2]
    assert_at_best(model, caught.value.history)


@pytest.mark.parametrize("constraints", [(), (kept(),)])
def test_an_exception_at_the_end_carries_the_history(constraints: Any) -> None:
    import keras

    class Fails(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            raise OSError("disk full")

    model = eager()
    with pytest.raises(OSError, match="disk full") as caught:
        fit(model, policy="constant", constraints=constraints, callbacks=[Fails()], epochs=3)
    assert caught.value.history.epoch == [0, 1, 2]
    assert finite(model)


@pytest.mark.parametrize("policy", ["default", "constant"])
def test_a_model_without_weights_to_train_is_refused(policy: str) -> None:
    model = line()
    model.trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(InvalidInputError, match="must have weights that are trained"):
        fit(model, policy=policy)


def test_an_optimizer_of_another_model_is_refused() -> None:
    import keras

    optimizer = keras.optimizers.Adam()
    optimizer.build(line().trainable_variables)
    model = line()
    model.compile(optimizer, "mse", run_eagerly=True)
    with pytest.raises(InvalidInputError, match="optimizer must be that of the model"):
        fit(model)


def test_a_metric_of_unknown_direction_needs_a_mode_in_a_plain_run_too() -> None:
    import keras

    class Score(keras.metrics.Mean):
        def update_state(self, y: Any, outputs: Any, sample_weight: Any = None) -> Any:
            return super().update_state(outputs)

    for policy in ("default", "constant"):
        model = line()
        model.compile("sgd", "mse", metrics=[Score(name="score")], run_eagerly=True)
        with pytest.raises(InvalidInputError, match="'auto' for 'val_score'"):
            fit(model, policy=policy, monitor="val_score")
        assert fit(model, policy=policy, monitor="val_score", mode="max").epoch


# Budgets in steps


@pytest.mark.parametrize("policy", ["default", "bold", "constant"])
def test_a_budget_in_steps_is_that_of_as_many_epochs(policy: str) -> None:
    by_steps, by_epochs = eager(), eager()
    ours = fit(by_steps, policy=policy, epochs=None, steps=8)
    theirs = fit(by_epochs, policy=policy, epochs=4)
    assert ours.history == theirs.history
    for a, b in zip(by_steps.get_weights(), by_epochs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_budget_in_steps_may_end_within_an_epoch() -> None:
    model = eager()
    history = fit(model, policy="constant", epochs=None, steps=5)
    assert history.epoch == [0, 1, 2]
    assert int(model.optimizer.iterations) == 5


@pytest.mark.parametrize("wrong", [{"steps": 3}, {"epochs": None, "steps": 0}])
def test_a_budget_is_said_once(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="`steps` must be"):
        fit(eager(), **wrong)
