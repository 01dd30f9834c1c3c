"""Keras models of every kind give the accuracy of `model(x)`, or one sentence."""

from typing import Any

import numpy as np
import pytest
from linear_models import BIAS, ROBUST, W, X, Y, keras_linear, measure, worst_case

from rlhf_tune.errors import NoGradientError, UnsupportedModelError

pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # quantize
]
FLIPPED = worst_case(X, 1 - Y, 0.1)  # of a model that says the other class


def predictions(model: Any) -> Any:
    """Of `model(x)`, on all samples at once."""
    return np.asarray(model(X)).argmax(axis=1)


def linear(*tail: Any, activation: Any = None) -> Any:
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, activation), *tail])
    model.layers[0].set_weights([W, BIAS])
    return model


# What would be lost if layers were walked only


def with_own_call() -> Any:
    import keras

    class Own(keras.Model):
        def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
            return super().call(1.0 - x, training=training, mask=mask)

    model = linear(activation="softmax")
    return Own(model.inputs[0], model.outputs[0])


def nested(inner: Any) -> Any:
    import keras

    inputs = keras.Input((6,))
    return keras.Model(inputs, inner(inputs))


def with_own_layer(of: str) -> Any:
    import keras

    class Turned(keras.layers.Softmax if of == "softmax" else keras.layers.Activation):  # type: ignore[misc]
        def call(self, x: Any, mask: Any = None) -> Any:
            return super().call(x)[:, ::-1]

    return linear(Turned() if of == "softmax" else Turned("softmax"))


def with_replaced_call() -> Any:
    model = linear(activation="softmax")
    whole = model.call
    model.call = lambda x, **how: 1.0 - whole(x, **how)
    return model


def second_of_two_outputs() -> Any:
    import keras

    inputs, outer = keras.Input((6,)), keras.Input((6,))
    layers = [keras.layers.Dense(2, "softmax") for _ in range(2)]
    inner = keras.Model(inputs, [layer(inputs) for layer in layers])
    return keras.Model(outer, inner(outer)[1])


def quantised(mode: str) -> Any:
    model = linear(activation="softmax")
    model.layers[0].quantize(mode)
    return model


def with_low_rank() -> Any:
    model = linear(activation="softmax")
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign([[2.0, -2.0], [1.0, 3.0]])
    return model


@pytest.mark.parametrize(
    "build",
    [
        with_own_call,
        lambda: nested(with_own_call()),
        lambda: with_own_layer("softmax"),
        lambda: with_own_layer("activation"),
        with_replaced_call,
        lambda: nested(with_replaced_call()),
        second_of_two_outputs,
        lambda: quantised("int8"),
        lambda: quantised("float8"),
        with_low_rank,
        lambda: nested(nested(linear(activation="softmax"))),
    ],
)
def test_keras_predictions_are_the_models_own(build: Any) -> None:
    model = build()
    clean = measure(model, eps=0.0).details["clean_accuracy"]
    assert clean == (predictions(model) == Y).mean()


def test_keras_softmax_over_the_batch_is_no_classifier() -> None:
    import keras

    result = measure(linear(keras.layers.Softmax(axis=0)))
    assert any("other samples" in reason for reason in result.reasons)


# What changes between two measurements


def turn_activation(model: Any) -> None:
    import keras

    model.layers[0].activation = lambda z: keras.ops.softmax(-z)


def turn_setting(model: Any) -> None:
    model.layers[-1].factor = -1.0


def turn_weights(model: Any) -> None:
    model.layers[0].set_weights([-W, -BIAS])


def turn_last_layer(model: Any) -> None:
    import keras

    model.pop()
    model.add(keras.layers.Rescaling(-1.0))


@pytest.mark.parametrize(
    "turn", [turn_activation, turn_setting, turn_weights, turn_last_layer], ids=lambda f: f.__name__
)
def test_keras_models_are_measured_as_they_are_now(turn: Any) -> None:
    import keras

    class Times(keras.layers.Layer):
        factor = 1.0

        def call(self, x: Any) -> Any:
            return self.factor * x

    tail = {"turn_setting": [Times()], "turn_last_layer": [keras.layers.Rescaling(1.0)]}
    known = tail.get(turn.__name__, [])
    model = linear(*known, activation=None if known else "softmax")
    assert measure(model).value == ROBUST.mean()
    turn(model)
    assert measure(model).value == FLIPPED.mean()


def test_keras_models_are_measured_as_quantised_later() -> None:
    model = linear(activation="softmax")
    measure(model)
    model.layers[0].quantize("int8")
    clean = measure(model, eps=0.0).details["clean_accuracy"]
    assert clean == (predictions(model) == Y).mean()


# Batches of one size


@pytest.mark.parametrize("size", [1, 32, 500])
@pytest.mark.parametrize("last", ["softmax", None])
def test_keras_batches_of_one_size(size: int, last: Any) -> None:
    import keras

    fixed = keras.Sequential(
        [keras.Input(batch_shape=(size, 6)), keras.layers.Dense(2, activation=last)]
    )
    fixed.set_weights([W, BIAS])
    result = measure(fixed)
    assert result.trusted, result.reasons
    assert result.value == ROBUST.mean()


def test_keras_states_begin_at_zero_in_each_batch() -> None:
    import keras

    def network(stateful: bool) -> Any:
        size = {"batch_shape": (32, 6)} if stateful else {"shape": (6,)}
        return keras.Sequential(
            [
                keras.Input(**size),
                keras.layers.Reshape((6, 1)),
                keras.layers.SimpleRNN(5, stateful=stateful),
                keras.layers.Dense(2, "softmax"),
            ]
        )

    keras.utils.set_random_seed(1)
    stateful, plain = network(True), network(False)
    plain.set_weights(stateful.get_weights())
    stateful(np.ones((32, 6), np.float32))
    rnn = stateful.layers[1]
    before = np.asarray(rnn.states[0])
    result = measure(stateful, full=True)
    assert result.trusted == measure(plain, full=True).trusted
    assert result.value == measure(plain, full=True).value
    np.testing.assert_array_equal(rnn.states[0], before)


# One sentence


def dict_outputs() -> Any:
    import keras

    inputs = keras.Input((6,))
    return keras.Model(inputs, {"scores": keras.layers.Dense(2)(inputs)})


def of(function: Any) -> Any:
    """A model of one's own that does something to logits."""
    import keras

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return function(self.dense(x))

    model = Own()
    model.dense.build((None, 6))
    model.built = True
    return model


def of_five() -> Any:
    import keras

    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])


REFUSED = {
    "returned dict; wrap": dict_outputs,
    "returned list; wrap": lambda: of(lambda z: [z, z]),
    "KeyError: .*absent": lambda: of(lambda z: {}["absent"]),
    r"here \[B, 6\] of float32.*incompatible": of_five,
    r"class scores \[B, C\]": lambda: of(lambda z: z[:, :, None]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_keras_what_cannot_be_measured_is_said_in_one_sentence(message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        measure(REFUSED[message]())
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_keras_failures_of_a_compiled_program_are_said_in_one_sentence() -> None:
    import tensorflow as tf

    model = of(lambda z: tf.reshape(z, (7, 2)))
    with pytest.raises(UnsupportedModelError, match="InvalidArgumentError") as caught:
        measure(model)
    assert "\n" not in str(caught.value)


def test_keras_outputs_without_gradient_are_named() -> None:
    import keras

    with pytest.raises(NoGradientError, match="detached"):
        measure(of(keras.ops.stop_gradient))


# Number types


@pytest.mark.parametrize("policies", [("mixed_float16", "float32"), ("bfloat16", "bfloat16")])
def test_keras_rounding_of_half_precision_is_no_doubt(policies: Any) -> None:
    import keras

    first, last = policies
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(2, dtype=first),
            keras.layers.Activation("softmax", dtype=last),
        ]
    )
    model.set_weights([W, BIAS])
    result = measure(model, full=True)
    assert result.trusted, result.reasons
    assert result.value == pytest.approx(ROBUST.mean(), abs=0.03)


def test_keras_linear_models_are_measured_alike_in_wrappers() -> None:
    for kind in ("softmax", "nested", "subclass"):
        assert measure(nested(keras_linear(kind=kind))).value == ROBUST.mean()
