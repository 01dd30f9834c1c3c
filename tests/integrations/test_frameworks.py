"""The adapters: exact on linear models, without side effects, on torch and Keras models."""

import copy
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_tune import frameworks
from rlhf_tune.errors import MissingExtraError, UnsupportedModelError
from rlhf_tune.safety import MembershipLeakage, RobustAccuracy, perturb

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.random((200, 6)).astype(np.float32)
W = RNG.normal(size=(6, 2)).astype(np.float32)
Y = ((X - 0.5) @ W).argmax(axis=1)
Y[::7] = 1 - Y[::7]
BIAS = -0.5 * W.sum(axis=0)


def worst_case(x: Any, y: Any, eps: float) -> Any:
    """Whether logits x @ W + BIAS stay right within the box and [0, 1], in closed form."""
    pull = (W[:, 1] - W[:, 0]).astype(float) * np.where(y == 1, -1, 1)[:, None]
    corner = np.where(pull > 0, np.minimum(x + eps, 1), np.maximum(x - eps, 0))
    return ((corner - 0.5) * pull).sum(axis=1) < 0


ROBUST = worst_case(X, Y, 0.1)


def measure(model: Any, x: Any = X, y: Any = Y, **arguments: Any) -> Any:
    return RobustAccuracy(x, y, **{"eps": 0.1, "at_least": 0.5, **arguments})(model)


# Finding the adapter


def test_a_model_without_adapter_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match=r"builtins\.object; add an adapter"):
        frameworks.framework_of(object())


def test_the_most_derived_class_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> Any:
            return self.name

    entries = {name: Entry(name) for name in (__name__, "torch")}
    monkeypatch.setattr(frameworks, "_adapters", lambda: entries)

    class Mine(torch.nn.Linear):
        pass

    assert frameworks.framework_of(Mine(1, 1)) == __name__
    assert frameworks.framework_of(torch.nn.Linear(1, 1)) == "torch"


@pytest.mark.parametrize("name", ["rlhf_tune.safety", "rlhf_tune.frameworks"])
def test_the_core_loads_no_framework(name: str) -> None:
    heavy = "{'torch', 'tensorflow', 'keras', 'cleverhans', 'rlhf_tune_integrations'}"
    code = f"import sys, {name}; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_cleverhans_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cleverhans"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cleverhans", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-tune\[robustness\]'"):
        measure(linear())
    perturb(linear(), X, Y, eps=0.1, attack="noise")  # needs none
    MembershipLeakage((X, Y), (X, Y), at_most=0.5)(linear())


# torch


def linear(scale: float = 1.0, shift: float = 0.0, outputs: int = 2) -> Any:
    layer = torch.nn.Linear(6, outputs)
    weights, bias = (W, BIAS) if outputs == 2 else (W[:, 1:] - W[:, :1], BIAS[1:] - BIAS[:1])
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(scale * weights.T))
        layer.bias.copy_(torch.as_tensor(scale * bias + shift))
    return layer


class Wrapped(torch.nn.Module):
    """A module whose last layer cannot be seen from outside."""

    def __init__(self, inner: Any, link: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self.link = inner, link

    def forward(self, x: Any) -> Any:
        return self.link(self.inner(x))


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
    )


@pytest.fixture
def cleverhans() -> Any:
    return pytest.importorskip("cleverhans.torch.attacks")


chain = torch.nn.Sequential

torch_models = pytest.mark.parametrize(
    "build",
    [
        *(lambda s=s: linear(scale=s) for s in (1e-3, 1.0, 1e4)),
        lambda: linear(shift=100.0),
        lambda: linear(outputs=1),
        lambda: Wrapped(linear(outputs=1), lambda z: z[:, 0]),
        lambda: Wrapped(linear(outputs=1), torch.sigmoid),
        lambda: Wrapped(linear(), lambda z: z.softmax(1)),
        lambda: Wrapped(linear(1e4), lambda z: z),
        lambda: chain(linear(1e3), torch.nn.Softmax(dim=1)),
        lambda: chain(linear(1e3), torch.nn.LogSoftmax(dim=1)),
        lambda: chain(chain(linear(1e3, outputs=1), torch.nn.Sigmoid())),
        lambda: linear().double(),
        pytest.param(
            lambda: torch.compile(linear(), backend="eager"),
            # torch.compile looks at .grad of its inputs and hides this warning itself, which
            # warnings as errors defeat.
            marks=pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
        ),
        lambda: torch.compile(chain(linear(1e3), torch.nn.Softmax(dim=1)), backend="eager"),
    ],
)  # fmt: skip


@torch_models
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.usefixtures("cleverhans")
def test_torch_linear_models_meet_their_closed_form(build: Any, attack: Any) -> None:
    result = measure(build(), attack=attack)
    assert result.trusted, result.reasons
    assert result.value == ROBUST.mean()


@pytest.mark.usefixtures("cleverhans")
def test_torch_saturated_probabilities_are_not_trusted() -> None:
    result = measure(Wrapped(linear(1e4), lambda z: z.softmax(1)))
    assert not result.trusted
    assert any("saturate" in reason for reason in result.reasons)


@pytest.mark.usefixtures("cleverhans")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_half_precision(dtype: Any) -> None:
    assert measure(linear().to(dtype)).value == pytest.approx(ROBUST.mean(), abs=0.02)


def test_torch_equals_cleverhans_where_its_softmax_is_sound(cleverhans: Any) -> None:
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    from rlhf_tune.safety.evaluation import Evaluation
    from rlhf_tune.safety.robustness import Attack

    class FromTheMiddle:
        def uniform(self, low: float, high: float, shape: Any) -> Any:
            return np.zeros(shape)

    model = network().eval()
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    fgsm = fast_gradient_method(model, x, 0.1, np.inf, clip_min=0.0, clip_max=1.0, y=y)
    pgd = projected_gradient_descent(
        model, x, 0.1, 0.05, 5, np.inf, clip_min=0.0, clip_max=1.0, y=y, rand_init=False
    )
    with frameworks.framework_of(model).classifier(model) as classifier:
        view, rows = Evaluation(classifier, X, Y), np.arange(len(X))
        for name, theirs in (("fgsm", fgsm), ("pgd", pgd)):
            attack = Attack(name, 0.1, (0.0, 1.0), steps=5)  # type: ignore[arg-type]
            ours, _ = attack.move(view, rows, "cross_entropy", FromTheMiddle())  # type: ignore[arg-type]
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


@pytest.mark.usefixtures("cleverhans")
def test_torch_measuring_between_backward_and_step_changes_nothing() -> None:
    def trained(measured: bool) -> Any:
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(torch.as_tensor(X)), torch.as_tensor(Y))
            loss.backward()
            if measured:
                measure(model)
                perturb(model, X, Y, eps=0.1, attack="pgd", steps=2)
                MembershipLeakage((X, Y), (X, Y), at_most=0.5)(model)
            optimizer.step()
        return model.state_dict() | {"stream": torch.rand(4)}

    for ours, theirs in zip(trained(True).values(), trained(False).values(), strict=True):
        assert torch.equal(ours, theirs)


def random_streams() -> Any:
    state = np.random.get_state()  # noqa: NPY002 - the global stream is what must not move
    return random.getstate(), str(state)


def torch_state(model: Any) -> Any:
    return copy.deepcopy(
        (
            [module.training for module in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
            [value.tolist() for value in model.state_dict().values()],
            torch.get_rng_state().tolist(),
            random_streams(),
            torch.is_grad_enabled(),
        )
    )


@pytest.mark.usefixtures("cleverhans")
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fails", [False, True])
def test_torch_state_is_restored(context: Any, fails: bool) -> None:
    model = network()
    model[1].eval()  # a submodule in another mode than the rest
    model[0].weight.requires_grad_(False)
    model(torch.as_tensor(X)).sum().backward()
    if fails:
        model.append(Wrapped(torch.nn.Identity(), lambda z: z.no_such_attribute))
    before = torch_state(model)
    with context():
        if fails:
            with pytest.raises(AttributeError):
                measure(model)
        else:
            measure(model)
            assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch_state(model) == before


@pytest.mark.usefixtures("cleverhans")
def test_torch_dropout_that_ignores_eval_keeps_the_random_stream() -> None:
    model = Wrapped(network(), lambda z: torch.nn.functional.dropout(z, 0.5))
    before = torch.get_rng_state()
    result = measure(model, X[:50], Y[:50], full=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert any("not deterministic" in reason for reason in result.reasons)


@pytest.mark.usefixtures("cleverhans")
def test_torch_result_does_not_depend_on_the_batch_size() -> None:
    model = network()
    whole = perturb(model, X[:40], Y[:40], eps=0.1)
    for batch_size in (1, 32):
        moved = perturb(model, X[:40], Y[:40], eps=0.1, batch_size=batch_size)
        np.testing.assert_array_equal(moved, whole)


@pytest.mark.usefixtures("cleverhans")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Wrapped(linear(), lambda z: z.detach()), "detached"),
        (Wrapped(linear(), lambda z: (z, z)), "one tensor .* returned tuple"),
        (Wrapped(linear(), lambda z: z[:, :, None]), r"class scores \[B, C\]"),
        (Wrapped(linear(), lambda z: z.sum(0)), "for a batch of 200"),
        (torch.nn.Bilinear(6, 6, 2), "one input array"),
        (torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Flatten()), "tokens"),
    ],
)
def test_torch_what_cannot_be_measured_is_refused(model: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        measure(model)


@pytest.mark.usefixtures("cleverhans")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_torch_on_a_gpu() -> None:
    stream = torch.cuda.get_rng_state()
    assert measure(linear().cuda()).value == ROBUST.mean()
    assert torch.equal(torch.cuda.get_rng_state(), stream)


# Keras


def keras_linear(scale: float = 1.0, kind: str = "softmax") -> Any:
    import keras

    single = kind.startswith("single")
    weights = (W[:, 1:] - W[:, :1], BIAS[1:] - BIAS[:1]) if single else (W, BIAS)
    inputs = keras.Input((6,))
    if kind == "subclass":

        class Model(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.dense = keras.layers.Dense(2)

            def call(self, x: Any, training: bool | None = None) -> Any:
                return self.dense(x)

        model = Model()
        model(X[:1])
    elif kind == "nested":
        inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")])
        model = keras.Model(inputs, inner(keras.layers.Identity()(inputs)))
    elif kind in ("softmax layer", "activation layer"):
        plain = kind == "softmax layer"
        last = keras.layers.Softmax() if plain else keras.layers.Activation("softmax")
        model = keras.Sequential([inputs, keras.layers.Dense(2), last])
    else:
        activation = {"single sigmoid": "sigmoid", "softmax": "softmax"}.get(kind)
        model = keras.Sequential([inputs, keras.layers.Dense(1 if single else 2, activation)])
    model.set_weights([(scale * value).astype(np.float32) for value in weights])
    return model


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

    from rlhf_tune.safety.evaluation import Evaluation
    from rlhf_tune.safety.robustness import Attack

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)]
    )
    theirs = fast_gradient_method(model, X, 0.1, np.inf, clip_min=0.0, clip_max=1.0, y=Y)
    with frameworks.framework_of(model).classifier(model) as classifier:
        attack = Attack("fgsm", 0.1, (0.0, 1.0))
        view = Evaluation(classifier, X, Y)
        ours, _ = attack.move(view, np.arange(len(X)), "cross_entropy", np.random.default_rng())
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
        measure(model, X[:size], Y[:size])
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
        programs = weakref.ref(ours.programs_of(model))
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


@pytest.mark.keras
def test_keras_on_the_torch_backend() -> None:
    code = """
import numpy as np, torch
import test_frameworks as t
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
