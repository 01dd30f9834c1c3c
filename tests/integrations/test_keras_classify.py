"""The Keras adapter: exact on linear models, without side effects."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import BIAS, ROBUST, W, X, Y, keras_linear, measure, random_streams, worst_case

from rlhf_tune import frameworks
from rlhf_tune.errors import UnsupportedModelError
from rlhf_tune.safety import perturb

torch = pytest.importorskip("torch")


@pytest.mark.keras
@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("softmax", 1e-3),
        ("softmax", 1e4),
        ("logits", 1e4),
        ("softmax layer", 1e4),
        ("activation layer", 1.0),
        ("nested", 1e4),
        ("subclass", 1e4),
        ("single sigmoid", 1e4),
        ("single logit", 1e-3),
    ],
)
def test_keras_linear_models_meet_their_closed_form(kind: str, scale: float) -> None:
    model = keras_linear(scale, kind)
    names = [layer.name for layer in model.layers]
    result = measure(model)
    assert result.trusted, result.reasons
    assert result.value == ROBUST.mean()
    assert [layer.name for layer in model.layers] == names


@pytest.mark.keras
def test_keras_result_does_not_depend_on_the_batch_size() -> None:
    model = keras_linear()
    whole = perturb(model, X, Y, eps=0.1)
    np.testing.assert_array_equal(perturb(model, X, Y, eps=0.1, batch_size=7), whole)
    assert np.abs(whole.astype(float) - X).max() <= 0.1


@pytest.mark.keras
def test_keras_equals_cleverhans_where_its_softmax_is_sound() -> None:
    import keras
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

    from rlhf_tune.safety.attacks import Attack
    from rlhf_tune.safety.evaluation import Evaluation

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)]
    )
    theirs = fast_gradient_method(model, X, 0.1, np.inf, clip_min=0.0, clip_max=1.0, y=Y)
    with frameworks.framework_of(model).classifier(model) as classifier:
        attack = Attack.checked("fgsm", X, 0.1, (0.0, 1.0))
        evaluation = Evaluation(classifier, X, Y)
        ours, _ = attack.move(
            evaluation, np.arange(len(X)), "cross_entropy", np.random.default_rng()
        )
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


@pytest.mark.keras
def test_keras_is_traced_once_and_sees_new_weights() -> None:
    import keras

    traces = []

    class Traced(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            traces.append(x.shape)
            return x

    model = keras.Sequential(
        [keras.Input((6,)), Traced(), keras.layers.Dense(2, activation="softmax")]
    )
    model.set_weights([W, BIAS])
    first = measure(model)
    after_first = len(traces)
    model.set_weights([-W, -BIAS])
    flipped = measure(model)
    for size in (3, 100):
        measure(model, X[:size], Y[:size], at_least=0.1)
    perturb(model, X, Y, eps=0.2, batch_size=33)
    assert len(traces) == after_first
    assert first.value == ROBUST.mean()
    assert flipped.value == worst_case(X, 1 - Y, 0.1).mean()


@pytest.mark.keras
def test_keras_added_layers_are_seen() -> None:
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.set_weights([W, BIAS])
    measure(model)
    model.add(keras.layers.Rescaling(-1.0))
    assert measure(model).value == worst_case(X, 1 - Y, 0.1).mean()


@pytest.mark.keras
def test_keras_models_are_let_go() -> None:
    import gc
    import weakref

    from rlhf_tune_integrations.keras import tensorflow as ours

    for kind in ("softmax", "subclass"):
        model = keras_linear(kind=kind)
        measure(model)
        programs = weakref.ref(ours._KEPT[model])
        alive = weakref.ref(model)
        del model
        gc.collect()
        assert alive() is None
        assert programs() is None


@pytest.mark.keras
def test_keras_state_is_restored() -> None:
    import keras

    class AlwaysDropout(keras.layers.Dropout):
        def call(self, x: Any, training: bool | None = None) -> Any:
            return super().call(x, training=True)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(AlwaysDropout(0.5)(hidden)))
    before = [v.numpy().copy() for v in model.variables]
    streams = random_streams()
    result = measure(model, full=True)
    assert any("not deterministic" in reason for reason in result.reasons)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert random_streams() == streams
    last = int(model.layers[-1].name.rpartition("_")[2])
    assert keras.layers.Dense(1).name == f"dense_{last + 1}"  # no names were used up


@pytest.mark.keras
def test_keras_what_cannot_be_measured_is_refused() -> None:
    import keras

    one, other = keras.Input((6,)), keras.Input((6,))
    tokens = keras.Input((6,), dtype="int32")
    regression = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    regression.compile("sgd", "mse")
    cases = {
        "has 2 and 1": keras.Model([one, other], keras.layers.Dense(2)(one + other)),
        "int32: tokens": keras.Model(
            tokens, keras.layers.Flatten()(keras.layers.Embedding(9, 2)(tokens))
        ),
        "detached": keras.Model(one, keras.layers.Dense(2)(keras.ops.round(one))),
        r"class scores \[B, C\]": keras.Model(one, keras.layers.Reshape((3, 2))(one)),
        "regression loss 'mean_squared_error'": regression,
        "must be built": keras.Sequential([keras.layers.Dense(2)]),
    }
    for message, model in cases.items():
        with pytest.raises(UnsupportedModelError, match=message):
            measure(model)


@pytest.mark.slow
@pytest.mark.keras
def test_keras_on_the_torch_backend() -> None:
    code = """
import numpy as np, torch
import linear_models as t
for kind in ("softmax", "nested", "subclass", "single sigmoid"):
    model = t.keras_linear(1e3, kind)
    before = torch.get_rng_state()
    result = t.measure(model)
    assert result.trusted and result.value == t.ROBUST.mean(), (kind, result)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
import sys
assert "tensorflow" not in sys.modules
"""
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, cwd=Path(__file__).parent
    )
    assert done.returncode == 0
