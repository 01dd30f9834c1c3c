"""A constant run with a constraint that holds is `model.fit`, for every kind of data and layer."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rlhf_tune.safety import constraint

pytest.importorskip("keras")
pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:.shuffle=True. was passed"),  # Keras' own default
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]

RNG = np.random.default_rng(8)
X = RNG.random((44, 5)).astype("float32")
Y = (X[:, 1] > 0.4).astype("int64")
HELD = RNG.random((21, 5)).astype("float32"), RNG.integers(0, 2, 21)
IMAGES, LABELS = RNG.random((24, 5, 5, 1)).astype("float32"), RNG.integers(0, 2, 24)


def stack(*layers: Any, shape: tuple[int, ...] = (5,), eager: bool = True, **compiled: Any) -> Any:
    import keras

    ends = [keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input(shape), *layers, *ends])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=eager, **compiled)
    return model


def dropout(**compiled: Any) -> Any:
    import keras

    return stack(keras.layers.Dense(6, "relu"), keras.layers.Dropout(0.35), **compiled)


def noisy() -> Any:
    """Draws in inference too, without seeds of its own."""
    import keras

    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x))

    return stack(Noise(), keras.layers.GaussianNoise(0.2), keras.layers.AlphaDropout(0.1, seed=2))


def pictures() -> Any:
    import keras

    layers = [
        keras.layers.RandomFlip(),
        keras.layers.RandomTranslation(0.1, 0.1, seed=5),
        keras.layers.Conv2D(2, 3),
        keras.layers.SpatialDropout2D(0.3),
        keras.layers.BatchNormalization(),
    ]
    return stack(*layers, shape=(5, 5, 1))


def unbuilt() -> Any:
    import keras

    model = keras.Sequential([keras.layers.Dropout(0.2), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    return model


def branched() -> Any:
    """Named inputs and outputs, and in a graph the sizes of batches are not known."""
    import keras

    inputs = {name: keras.Input((5,), name=name) for name in ("left", "right")}
    hidden = keras.layers.Concatenate()(list(inputs.values()))
    outputs = {
        "kind": keras.layers.Dense(2, "softmax", name="kind")(hidden),
        "size": keras.layers.Dense(1, name="size")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"kind": "sparse_categorical_crossentropy", "size": "mse"})
    return model


def for_branched(x: Any, y: Any) -> tuple[Any, Any]:
    return {"left": x, "right": x[:, ::-1]}, {"kind": y, "size": y.astype("float32")}


def generator() -> Iterator[Any]:
    while True:
        for start in range(0, 40, 8):
            yield X[start : start + 8], Y[start : start + 8]


def indexed() -> Any:
    import keras

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return X[index * 11 : (index + 1) * 11], Y[index * 11 : (index + 1) * 11]

    return Data()


def loader() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(pairs, batch_size=12, shuffle=True)


def sparse() -> dict[str, Any]:
    from scipy.sparse import csr_matrix

    return {"x": csr_matrix(X), "y": Y, "validation_data": (csr_matrix(HELD[0]), HELD[1])}


def arrays(**more: Any) -> dict[str, Any]:
    return {"x": X, "y": Y, "validation_data": HELD, **more}


Kind = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]
KINDS: dict[str, Kind] = {
    "arrays": (dropout, arrays),
    "shuffled in batches": (dropout, lambda: arrays(shuffle="batch", batch_size=10)),
    "a split": (dropout, lambda: {"x": X, "y": Y, "validation_split": 0.3, "batch_size": 9}),
    "sample weights": (dropout, lambda: arrays(sample_weight=np.linspace(0.5, 2, 44))),
    "class weights": (dropout, lambda: arrays(class_weight={0: 1.0, 1: 3.0})),
    "seldom validated": (noisy, lambda: arrays(validation_freq=2)),
    "some validation steps": (dropout, lambda: arrays(validation_steps=3)),
    "steps": (dropout, lambda: arrays(batch_size=11, steps_per_epoch=2)),
    "a generator": (dropout, lambda: arrays(x=generator(), y=None, steps_per_epoch=3)),
    "PyDataset": (dropout, lambda: {"x": indexed(), "validation_data": indexed()}),
    "DataLoader": (dropout, lambda: {"x": loader(), "validation_data": HELD}),
    "sparse": (dropout, sparse),
    "noise": (noisy, arrays),
    "images": (pictures, lambda: {"x": IMAGES, "y": LABELS, "validation_split": 0.25}),
    "unbuilt": (unbuilt, arrays),
    "outputs": (
        branched,
        lambda: {
            **dict(zip("xy", for_branched(X, Y), strict=True)),
            "validation_data": for_branched(*HELD),
        },
    ),
}


def both(kind: Kind) -> tuple[Any, Any, Any, Any]:
    """A model trained by `fit` and its history, and the same by Keras."""
    import keras

    from rlhf_tune_integrations.keras import fit

    make, data = kind
    keras.utils.set_random_seed(4)
    ours = make()
    holds = constraint("holds", lambda model: 1.0, at_least=0.0)
    arguments = {"epochs": 3, "verbose": 0}
    history = fit(ours, policy="constant", constraints=[holds], **arguments, **data())
    keras.utils.set_random_seed(4)
    theirs = make()
    return ours, history, theirs, theirs.fit(**arguments, **data())


def assert_equal_runs(kind: Kind) -> None:
    ours, history, theirs, expected = both(kind)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {key: history.history[key] for key in expected.history} == expected.history


@pytest.mark.parametrize("kind", KINDS)
def test_a_verified_constant_run_is_fit_for(kind: str) -> None:
    assert_equal_runs(KINDS[kind])


def test_a_verified_constant_run_is_fit_for_tf_data() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.data on TensorFlow")
    import tensorflow as tf

    def data() -> dict[str, Any]:
        pairs = tf.data.Dataset.from_tensor_slices((X, Y))
        held = tf.data.Dataset.from_tensor_slices(HELD).batch(6).repeat()
        shuffled = pairs.shuffle(44).batch(8)
        return {"x": shuffled, "validation_data": held, "validation_steps": 4}

    assert_equal_runs((dropout, data))


def test_several_steps_per_execution_are_those_of_fit() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow only")
    kind = (lambda: dropout(eager=False, steps_per_execution=2)), lambda: arrays(batch_size=9)
    assert_equal_runs(kind)


def test_a_stateful_model_goes_on_as_in_fit() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras' own fit fails on torch")

    def recurrent() -> Any:
        layers = [keras.layers.GRU(3, stateful=True), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input(batch_shape=(4, 3, 2)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, run_eagerly=True)
        return model

    x = RNG.random((24, 3, 2)).astype("float32")
    held = x[:8], LABELS[:8]
    data = {"x": x, "y": LABELS, "batch_size": 4, "shuffle": False, "validation_data": held}
    assert_equal_runs((recurrent, lambda: data))
