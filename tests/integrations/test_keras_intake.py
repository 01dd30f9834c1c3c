"""What is said of data and models before a Keras run begins."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from keras_trainers import SAMPLES, VALIDATION, X, Y, eager, named, trainer

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError

pytest.importorskip("keras")
pytestmark = pytest.mark.keras

REFUSED: dict[str, dict[str, Any]] = {
    "`x` must be given": {"x": None},
    "`y` must be given": {"y": None},
    "`x` must hold samples": {"x": X[:0], "y": Y[:0]},
    "`validation_data` must hold samples": {"validation_data": (X[:0], Y[:0])},
    "`y` must hold numbers, or text that .* NumPy text \\(<U1\\)": {"y": Y.astype("U1")},
    "`batch_size` must be a whole number >= 1, but got -2": {"batch_size": -2},
    "`batch_size` must be a whole number >= 1, but got 1.5": {"batch_size": 1.5},
    "`batch_size` must be a whole number >= 1, but got 'all'": {"batch_size": "all"},
    "`validation_batch_size` must be a whole": {"validation_batch_size": 0.5},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_one_sentence_says_what_is_missing(sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        trainer(eager(), **REFUSED[sentence])


def test_epochs_are_whole() -> None:
    from rlhf_tune_integrations.keras import fit

    with pytest.raises(InvalidInputError, match="`epochs` must be a whole number"):
        fit(eager(), X, Y, validation_data=VALIDATION, epochs=2.5, verbose=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x.astype("float64"), y),
        lambda x, y: ((x * 9).astype("uint16"), y),
        lambda x, y: (x > 0, y),
        lambda x, y: (x, y.astype("float32")),
        lambda x, y: (x, y.astype("uint8")),
        lambda x, y: (x, y[:, None]),
    ],
)
def test_what_keras_converts_is_taken(change: Any) -> None:
    x, y = change(X, Y)
    run = trainer(eager(), x=x, y=y)
    assert np.isfinite(run.train(2)["loss"])


def test_own_losses_need_no_targets() -> None:
    import keras

    class Reconstructs(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.square(x - y_pred))

    model = Reconstructs([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse", run_eagerly=True)
    run = trainer(model, y=None, validation_data=(VALIDATION[0],))
    assert np.isfinite(run.train(2)["loss"])


def test_inputs_that_are_not_finite_are_told_with_their_row() -> None:
    x = X.copy()
    x[17, 2] = np.nan
    with pytest.warns(UserWarning, match="`x` holds values that are not finite, first in row 17"):
        trainer(eager(), x=x)
    with pytest.warns(UserWarning, match="`x` holds .* first in row 3"):
        trainer(named(), x={"named": np.where(np.arange(SAMPLES)[:, None] == 3, np.inf, X)})
    with pytest.warns(UserWarning, match="`validation_data` holds .* first in row 17"):
        trainer(eager(), validation_data=(x, Y))


def test_a_generator_that_ends_early_is_told() -> None:
    short: Iterator[Any] = ((X[:8], Y[:8]) for _ in range(5))
    run = trainer(eager(), x=short, y=None, batch_size=None, steps_per_epoch=4)
    run.train(4)
    with pytest.raises(InvalidInputError, match="they ended before"):
        run.train(4)


# Batches of one size


def of_fixed_batch(size: int) -> Any:
    import keras

    model = keras.Sequential([keras.Input(batch_shape=(size, 4)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    return model


def test_a_fixed_batch_is_trained_in_whole_batches_and_kept() -> None:
    run = trainer(of_fixed_batch(13), batch_size=13, validation_data=(X[:26], Y[:26]))
    assert run.train(4)["steps"] == 4
    assert np.isfinite(run.evaluate()["val_loss"])
    assert "batch_size" not in run.hyperparameters
    with pytest.raises(InvalidInputError, match="can be set"):
        run.set(batch_size=26)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", {"batch_size": 8, "validation_data": (X[:8], Y[:8])}),
        ("x", {"batch_size": 13, "validation_data": (X[:8], Y[:8])}),
        ("validation_data", {"x": X[:32], "y": Y[:32], "batch_size": 8}),
    ],
)
def test_a_rest_is_refused_by_a_model_of_one_batch_size(
    name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError, match=f"8 samples only, so `{name}` must be a multiple"):
        trainer(of_fixed_batch(8), **arguments)


def test_several_rates_have_no_owner() -> None:
    import keras

    kinds = getattr(keras.optimizers, "MultiOptimizer", None)
    if kinds is None:
        pytest.skip("this Keras has no MultiOptimizer")
    several = kinds(keras.optimizers.OptimizerMap(keras.optimizers.SGD()))
    with pytest.raises(UnsupportedModelError, match="must have one learning rate"):
        trainer(eager(optimizer=several))


@pytest.mark.parametrize("as_given", ["objects", "tensors"])
def test_a_model_that_takes_text_is_trained_on_arrays_of_it(as_given: str) -> None:
    import keras

    words = np.array(["good day", "bad night", "good night", "bad day"] * 16)
    layer = keras.layers.TextVectorization(20, output_sequence_length=3)
    layer.adapt(words)
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            layer,
            keras.layers.Embedding(20, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy")
    x: Any = words.astype(object)
    if as_given == "tensors":
        import tensorflow as tf

        x = tf.constant(words)
    run = trainer(model, x=x, y=np.array([1, 0, 1, 0] * 16), validation_data=(x, np.ones(64)))
    assert np.isfinite(run.train(3)["loss"])
    assert np.isfinite(run.evaluate()["val_loss"])
