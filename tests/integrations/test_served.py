"""For models of every make-up, what is measured is what `model(x)` says, and nothing moves."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import random_streams

from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune.safety.evaluation import Evaluation

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

X = np.random.default_rng(5).random((61, 5)).astype(np.float32)
Y = (X.sum(axis=1) > 2.5).astype(int)

FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
HIDDEN = st.lists(
    st.sampled_from(["dense", "relu", "norm", "dropout", "nested"]), min_size=0, max_size=3
)
LINKS = st.sampled_from(["none", "softmax", "log_softmax", "sigmoid", "turned", "own"])
SEEDS = st.integers(0, 2**16)


def evaluate(model: Any, rows: Any = slice(None), batch_size: int = 256) -> Evaluation:
    """What is measured of the samples `rows`."""
    with framework_of(model).classifier(model) as classifier:
        return Evaluation(classifier, X[rows], Y[rows], batch_size)


def check_served(model: Any, served: Any) -> None:
    """Compare what is measured with the outputs [N, C] of the model itself."""
    own = served.argmax(axis=1)
    whole = evaluate(model)
    np.testing.assert_array_equal(whole.right, own == Y)
    np.testing.assert_array_equal(whole.logits.argmax(axis=1), own)
    order = np.random.default_rng(0).permutation(len(X))
    measured = RobustAccuracy(X, Y, eps=0.05, at_least=0.3)(model)
    shuffled = RobustAccuracy(X[order], Y[order], eps=0.05, at_least=0.3)(model)
    assert (measured.value, measured.trusted) == (shuffled.value, shuffled.trusted)
    for size in (2, 7):
        other = evaluate(model, order, size)
        np.testing.assert_array_equal(other.right, whole.right[order])
        assert bool(other.doubts) == bool(whole.doubts)


# PyTorch


class Ends(torch.nn.Module):
    """A last step of one's own around other layers."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x).softmax(1) - 0.5 * x[:, :3]


class Turned(torch.nn.Softmax):
    def forward(self, x: Any) -> Any:
        return super().forward(x).roll(1, dims=1)


def torch_layer(kind: str) -> Any:
    nn = torch.nn
    return {
        "dense": lambda: nn.Linear(5, 5),
        "relu": nn.ReLU,
        "norm": lambda: nn.BatchNorm1d(5),
        "dropout": lambda: nn.Dropout(0.5),
        "nested": lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh()),
    }[kind]()


def torch_model(hidden: list[str], link: str, hooks: list[int], seed: int) -> Any:
    nn = torch.nn
    torch.manual_seed(seed)
    ends = {
        "none": [],
        "softmax": [nn.Softmax(1)],
        "log_softmax": [nn.LogSoftmax(-1)],
        "sigmoid": [nn.Sigmoid()],
        "turned": [Turned(1)],
        "own": [],
    }
    model = nn.Sequential(*map(torch_layer, hidden), nn.Linear(5, 3), *ends[link])
    modules = list(model.modules())
    for place in hooks:
        module = modules[place % len(modules)]
        if place % 2:
            module.register_forward_hook(lambda module, given, out: out.flip(1))
        else:
            module.register_forward_pre_hook(lambda module, given: (given[0] - 0.3,))
    return Ends(model) if link == "own" else model


def torch_state(model: Any) -> Any:
    return (
        [value.tolist() for value in model.state_dict().values()],
        [(module.training, len(module._forward_hooks)) for module in model.modules()],
        [
            (p.requires_grad, None if p.grad is None else p.grad.tolist())
            for p in model.parameters()
        ],
        torch.get_rng_state().tolist(),
        random_streams(),
    )


@FEW
@given(HIDDEN, LINKS, st.lists(st.integers(0, 9), max_size=2), SEEDS)
def test_torch_what_is_measured_is_what_is_served(
    hidden: list[str], link: str, hooks: list[int], seed: int
) -> None:
    model = torch_model(hidden, link, hooks, seed)
    next(model.parameters()).requires_grad_(seed % 2 == 0)
    before = torch_state(model)
    evaluate(model)
    RobustAccuracy(X[:9], Y[:9], eps=0.05, at_least=0.3, full=True)(model)
    assert torch_state(model) == before
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        served = model.eval()(torch.as_tensor(X)).numpy()
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    check_served(model, served)


# Keras


def keras_model(hidden: list[str], link: str, nest: bool, seed: int) -> Any:
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(seed)

    class OfItsOwn(keras.Model):
        def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
            return super().call(1.0 - x, training=training, mask=mask)

    class KerasTurned(layers.Softmax):
        def call(self, x: Any, mask: Any = None) -> Any:
            return keras.ops.flip(super().call(x), axis=1)

    makers = {
        "dense": lambda: layers.Dense(5),
        "relu": layers.ReLU,
        "norm": layers.BatchNormalization,
        "dropout": lambda: layers.Dropout(0.5),
        "nested": lambda: keras.Sequential([keras.Input((5,)), layers.Dense(5, "tanh")]),
    }
    activation = {"softmax": "softmax", "sigmoid": "sigmoid", "log_softmax": "log_softmax"}
    inputs = keras.Input((5,))
    x = inputs
    for kind in hidden:
        x = makers[kind]()(x)
    x = layers.Dense(3, activation.get(link))(x)
    if link == "turned":
        x = KerasTurned()(x)
    model = (OfItsOwn if link == "own" else keras.Model)(inputs, x)
    outer = keras.Input((5,))
    return keras.Model(outer, model(outer)) if nest else model


def check_keras(hidden: list[str], link: str, nest: bool, seed: int) -> None:
    import keras

    model = keras_model(hidden, link, nest, seed)
    kept = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
    streams = random_streams()
    evaluate(model)
    for variable, value in zip(model.variables, kept, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert random_streams() == streams
    check_served(model, keras.ops.convert_to_numpy(model(X, training=False)))


@pytest.mark.keras
@settings(FEW, max_examples=4)
@given(HIDDEN, LINKS, st.booleans(), SEEDS)
def test_keras_what_is_measured_is_what_is_served(
    hidden: list[str], link: str, nest: bool, seed: int
) -> None:
    check_keras(hidden, link, nest, seed)


@pytest.mark.slow
@pytest.mark.keras
def test_keras_on_torch_what_is_measured_is_what_is_served() -> None:
    code = """
import test_served as t
for seed, link in enumerate(["none", "softmax", "log_softmax", "sigmoid", "turned", "own"]):
    t.check_keras(["dense", "norm", "dropout", "nested"], link, seed % 2 == 0, seed)
"""
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, cwd=Path(__file__).parent
    )
    assert done.returncode == 0
