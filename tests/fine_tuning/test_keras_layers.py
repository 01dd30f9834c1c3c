"""Groups of a Keras model: what is frozen stays frozen, on both backends."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from tuned_models import X, Y

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.keras

from rlhf_tune.envs import FineTuningEnv
from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.safety.custom import constraint
from rlhf_tune_integrations.keras import KerasTrainer, fine_tune

layers = keras.layers
IMAGES = X.transpose(0, 2, 3, 1)
VALIDATION = (IMAGES[40:], Y[40:])


def cnn(*, eager: bool = True) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(4, 3, name="second"),
            layers.BatchNormalization(center=False, scale=False, name="bare"),
            layers.Dropout(0.1),
            layers.Flatten(),
            layers.Dense(2, activation="softmax", name="last"),
        ]
    )
    compiled(model, eager=eager)
    return model


def compiled(model: Any, *, eager: bool = True) -> None:
    model.compile(
        keras.optimizers.Adam(1e-2),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        run_eagerly=eager,  # a program for each group takes seconds
    )


def array(variable: Any) -> Any:
    return np.asarray(variable).copy()


def inside(path: str) -> str:
    """Without the name of the model, which is numbered."""
    return path.partition("/")[2]


def weights(model: Any) -> dict[str, Any]:
    return {inside(v.path): array(v) for v in model.variables if "seed" not in v.path}


def test_each_group_changes_alone_and_the_model_is_as_before() -> None:
    model = cnn(eager=False)
    model.get_layer("second").trainable = False
    trainable = [layer.trainable for layer in model.layers]
    trainer = KerasTrainer(
        model, IMAGES[:40], Y[:40], batch_size=8, validation_data=VALIDATION, seed=0
    )
    env = FineTuningEnv(trainer, steps=6)
    env.reset(seed=0)
    assert list(env.groups) == ["stem", "head", "all"]
    # "bare" has no weights, and goes with "second", which is frozen.
    changes = {"stem": {"first", "norm"}, "head": {"last"}}
    changes["all"] = changes["stem"] | changes["head"]
    for group, wanted in changes.items():
        before = weights(model)
        action = next(a for a in range(env.action_space.n) if env.decode(a) == (group, "tune"))
        env.step(np.int64(action))
        now = weights(model)
        changed = {
            path.split("/")[0] for path in now if not np.array_equal(now[path], before[path])
        }
        assert changed == wanted, group
    trainer.close()
    assert [layer.trainable for layer in model.layers] == trainable
    before = weights(model)
    model.fit(IMAGES[:8], Y[:8], verbose=0)  # all that is trainable, as ever
    now = weights(model)
    for name in ("first", "last"):
        kernel = inside(model.get_layer(name).kernel.path)
        assert not np.array_equal(now[kernel], before[kernel])


def test_gradients_are_those_of_the_loss() -> None:
    model = cnn()
    trainer = KerasTrainer(model, IMAGES[:40], Y[:40], validation_data=VALIDATION, seed=0)
    env = FineTuningEnv(trainer)
    env.reset()
    before = weights(model)
    found = env.tuning.trainer.gradients()
    outputs = array(keras.ops.stop_gradient(model(IMAGES[:40], training=False)))
    hidden = keras.Model(model.inputs[0], model.get_layer("last").input)
    error = outputs - np.eye(2)[Y[:40]]
    features = array(keras.ops.stop_gradient(hidden(keras.ops.convert_to_tensor(IMAGES[:40]))))
    kernel, bias = features.T @ error / 40, error.mean(axis=0)
    assert found["last"] == pytest.approx(
        float(np.sqrt((kernel**2).sum() + (bias**2).sum())), rel=1e-3
    )
    assert all(np.array_equal(value, weights(model)[path]) for path, value in before.items())


def test_one_call_does_no_harm_by_validation_and_repeats_itself() -> None:
    found = []
    for _ in range(2):
        model = cnn()
        start = model.evaluate(*VALIDATION, verbose=0)[1]
        result = fine_tune(
            model,
            IMAGES[:40],
            Y[:40],
            validation_data=VALIDATION,
            groups=["first", "last"],
            policy="search",
            epochs=5,
            budget=0.4,
            seed=3,
            verbose=0,
        )
        assert model.evaluate(*VALIDATION, verbose=0)[1] >= start
        assert 0 < result.costs["budget"] <= 0.4
        assert set(result.tried) == {"tune first", "tune last"}  # too little for several rates
        found.append((result.schedule, weights(model)))
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(found[1][1][path], value) for path, value in found[0][1].items())


def test_an_lstm_and_a_transformer() -> None:
    tokens = np.random.default_rng(0).integers(0, 9, size=(60, 5))
    words = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 8, name="words")(words)
    recurrent = keras.Model(words, layers.Dense(2, activation="softmax")(layers.LSTM(4)(h)))
    attended = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
    pooled = layers.GlobalAveragePooling1D()(attended)
    transformer = keras.Model(words, layers.Dense(2, activation="softmax")(pooled))
    for model in (recurrent, transformer):
        compiled(model)
        result = fine_tune(
            model,
            tokens[:40],
            Y[:40],
            validation_data=(tokens[40:], Y[40:]),
            epochs=1,
            budget=1,
            policy="search",
            seed=0,
            verbose=0,
        )
        assert "tune stem" in result.tried


def test_constraints_hold() -> None:
    model = cnn()
    first = array(model.get_layer("last").kernel)

    def near(model: Any) -> float:
        return float(np.abs(array(model.get_layer("last").kernel) - first).max())

    floor = constraint("always", lambda model: 1.0, at_least=0.5)
    fine_tune(
        model,
        IMAGES[:40],
        Y[:40],
        validation_data=VALIDATION,
        constraints=[constraint("moved", near, at_most=1e-6), floor],
        epochs=2,
        budget=1,
        seed=0,
        verbose=0,
    )
    assert near(model) == 0


def test_what_cannot_be_tuned_says_so() -> None:
    data = {"validation_data": VALIDATION, "verbose": 0}
    plain = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(UnsupportedModelError, match=r"call model.compile\(\) first"):
        fine_tune(plain, IMAGES[:40], Y[:40], **data)
    frozen = cnn()
    frozen.trainable = False
    with pytest.raises(InvalidInputError, match="all of its layers are frozen"):
        fine_tune(frozen, IMAGES[:40], Y[:40], **data)
    compiled(plain)
    with pytest.raises(InvalidInputError, match="`budget` must be above 0"):
        fine_tune(plain, IMAGES[:40], Y[:40], budget=0, **data)


def test_a_single_layer_is_one_group() -> None:
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(2, activation="softmax")]
    )
    compiled(model)
    result = fine_tune(
        model, IMAGES[:40], Y[:40], validation_data=VALIDATION, epochs=2, seed=0, verbose=0
    )
    assert {each.group for each in result.schedule} == {"all"}


@pytest.mark.slow
def test_the_same_on_the_torch_backend() -> None:
    pytest.importorskip("torch")
    words = ["-q", "-p", "no:cacheprovider", "-W", "ignore:__array__:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-k", "alone or gradients or hold", __file__],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
