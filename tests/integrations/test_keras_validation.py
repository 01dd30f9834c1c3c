"""Validation within a Keras run: right numbers, of the same samples, that leave no trace."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from keras_trainers import VALIDATION, X, Y, assert_same, eager, network, state, trainer

from rlhf_tune.errors import InvalidInputError

pytest.importorskip("keras")
pytestmark = pytest.mark.keras


def two_outputs() -> Any:
    """In a graph, where Keras on TensorFlow does not know the sizes of batches."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("near", "far")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"near": "mse", "far": "mae"})
    return model


def targets(x: Any) -> dict[str, Any]:
    return {"near": x[:, 1], "far": 3 * x[:, 2]}


def endless() -> Iterator[Any]:
    """Four batches, over and over."""
    while True:
        for start in range(0, 36, 9):
            yield X[start : start + 9], Y[start : start + 9]


# The numbers


@pytest.mark.parametrize("size", [16, 39, 5])
def test_losses_of_single_outputs_are_means_over_samples(size: int) -> None:
    model, y = two_outputs(), targets(X)
    run = trainer(model, x=X[:8], y=targets(X[:8]), validation_data=(X, y), batch_size=size)
    for _ in range(2):
        found, outputs = run.evaluate(), model.predict(X, verbose=0)
        near = float(((outputs["near"][:, 0] - y["near"]) ** 2).mean())
        far = float(np.abs(outputs["far"][:, 0] - y["far"]).mean())
        assert found["val_near_loss"] == pytest.approx(near, rel=1e-5)
        assert found["val_far_loss"] == pytest.approx(far, rel=1e-5)
        assert found["val_loss"] == pytest.approx(near + far, rel=1e-5)
        run.train(1)


def test_training_losses_of_single_outputs_are_means_over_samples() -> None:
    run = trainer(two_outputs(), y=targets(X), validation_data=(X, targets(X)), batch_size=16)
    run.set(learning_rate=1e-12)  # the model stays as it is
    run.train(run.steps_per_epoch)
    over_samples = {key.removeprefix("val_"): value for key, value in run.evaluate().items()}
    assert run.epoch_logs() == pytest.approx(over_samples, rel=1e-5)


def test_steps_of_arrays_without_a_batch_size_are_those_of_fit() -> None:
    data = {"validation_data": (X, Y), "validation_steps": 2, "batch_size": None}
    model = eager()
    run = trainer(model, **data)
    expected = model.evaluate(X, Y, steps=2, return_dict=True, verbose=0)
    assert run.evaluate() == pytest.approx({f"val_{k}": v for k, v in expected.items()})


# The samples


def test_a_generator_is_read_once() -> None:
    run = trainer(eager(), validation_data=endless(), validation_steps=3)
    first = run.evaluate()
    assert [dict(run.evaluate()) for _ in range(2)] == [first] * 2
    expected = run.model.evaluate(X[:27], Y[:27], verbose=0, return_dict=True)
    assert first["val_loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_a_constant_run_validates_on_the_same_batches_of_a_generator() -> None:
    import keras

    from rlhf_tune_integrations.keras import fit

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", run_eagerly=True)
    arguments = {"validation_data": endless(), "validation_steps": 3, "epochs": 3, "verbose": 0}
    losses = fit(model, X, Y, policy="constant", constraints=[kept()], **arguments)
    assert len(set(np.round(losses.history["val_loss"], 6))) == 1


def kept() -> Any:
    from rlhf_tune.safety import constraint

    return constraint("kept", lambda model: 0.0, at_most=1.0)


def test_validation_without_an_end_is_refused() -> None:
    import keras

    class Endless(keras.utils.PyDataset):
        def __getitem__(self, index):
            return VALIDATION

        @property
        def num_batches(self):
            return None

    kinds: list[Any] = [endless(), Endless()]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        kinds.append(tf.data.Dataset.from_tensor_slices(VALIDATION).batch(4).repeat())
    for data in kinds:
        with pytest.raises(InvalidInputError, match="must have `validation_steps`"):
            trainer(eager(), validation_data=data)
    assert "val_loss" in trainer(eager(), validation_data=Endless(), validation_steps=2).evaluate()


def test_a_generator_of_nothing_is_refused() -> None:
    nothing: Iterator[Any] = (batch for batch in ())
    with pytest.raises(InvalidInputError, match="must hold samples"):
        trainer(eager(), validation_data=nothing, validation_steps=2)


# No trace


def test_what_only_looks_leaves_everything_but_the_trained_weights() -> None:
    import keras

    run = trainer(network())
    run.train(3)
    before = state(run)
    drawn = []
    for _ in range(2):
        with run.only_looking():
            run.model(X, training=True)  # moves statistics and seeds
            run.model.evaluate(X, Y, verbose=0)
            run.model.optimizer.learning_rate = 5.0
            keras.random.uniform((2,))
            drawn.append((random.random(), np.random.rand()))  # noqa: NPY002
        assert_same(before, state(run))
    assert drawn[0] == drawn[1]


def test_what_only_looks_leaves_the_streams_of_the_frameworks() -> None:
    import keras

    torch = pytest.importorskip("torch")
    run, drawn = trainer(eager()), []
    for _ in range(2):
        with run.only_looking():
            drawn.append(torch.rand(3).tolist())
            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                drawn[-1] += tf.random.uniform((3,)).numpy().tolist()
    assert drawn[0] == drawn[1]


def test_what_only_looks_leaves_states_of_recurrent_layers_as_after_an_error() -> None:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.SimpleRNN(3, stateful=True), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input(batch_shape=(13, 2, 2)), *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = X.reshape(-1, 2, 2)
    run = trainer(model, x=x, validation_data=(x[:13], Y[:13]), batch_size=13, shuffle=False)

    def fails() -> None:
        with run.only_looking():
            model(x[:13])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not keras.ops.any(model.layers[0].states[0].value)
    assert dict(run.evaluate()) == dict(run.evaluate())
