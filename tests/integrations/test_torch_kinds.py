"""Torch models of every kind give the accuracy of `model(x)`, or one sentence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from linear_models import BIAS, ROBUST, W, X, Y, linear, measure

from rlhf_tune.errors import NoGradientError, UnsupportedModelError

torch = pytest.importorskip("torch")

nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Complex modules:UserWarning"),
]


class Around(nn.Module):
    """Something around a linear model."""

    def __init__(self, forward: Callable[[Any, Any], Any], inner: Any = None) -> None:
        super().__init__()
        self.inner = linear() if inner is None else inner
        self.apply_to = forward

    def forward(self, x: Any) -> Any:
        return self.apply_to(self.inner, x)


def predictions(model: Any) -> Any:
    """Of `model(x)`, on all samples at once."""
    return model(torch.as_tensor(X)).argmax(1).detach().numpy()


# What would be lost if layers were walked only


def hooked(where: int | None, kind: str) -> Any:
    model = nn.Sequential(linear(), nn.Softmax(1))
    module = model if where is None else model[where]
    if kind == "forward":
        module.register_forward_hook(lambda module, given, out: out.flip(1))
    else:
        module.register_forward_pre_hook(lambda module, given: (given[0] - 0.4,))
    return model


def with_own_forward() -> Any:
    model = nn.Sequential(linear(), nn.Softmax(1))
    model.forward = lambda x: nn.Sequential.forward(model, x).flip(1)
    return model


class Turned(nn.Softmax):
    def forward(self, x: Any) -> Any:
        return super().forward(x).flip(1)


class TurnedChain(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return super().forward(x).flip(1)


class TurnedCall(nn.Sequential):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x).flip(1)


@pytest.mark.parametrize(
    "build",
    [
        *(lambda w=w: hooked(w, "forward") for w in (None, 0, 1)),
        *(lambda w=w: hooked(w, "pre") for w in (None, 0, 1)),
        lambda: nn.Sequential(nn.Identity(), hooked(None, "forward")),
        lambda: nn.Sequential(nn.Sequential(hooked(1, "pre"))),
        with_own_forward,
        lambda: nn.Sequential(linear(), Turned(dim=1)),
        lambda: TurnedChain(linear(), nn.Softmax(1)),
        lambda: TurnedCall(linear(), nn.Softmax(1)),
        lambda: torch.jit.script(nn.Sequential(linear(), nn.Softmax(1))),
        lambda: nn.utils.parametrizations.weight_norm(linear()),
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(linear()).eval()),
        lambda: nn.DataParallel(nn.Sequential(linear(), nn.Softmax(1))),
    ],
)
def test_torch_predictions_are_the_models_own(build: Any) -> None:
    model = build()
    result = measure(model, eps=0.0)
    assert result.details["clean_accuracy"] == (predictions(model) == Y).mean()


def test_torch_hooks_on_all_modules_count() -> None:
    model = nn.Sequential(linear(), nn.Softmax(1))
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, given, out: out.flip(1) if isinstance(module, nn.Softmax) else out
    )
    try:
        turned = measure(model, eps=0.0).value
    finally:
        handle.remove()
    assert turned == pytest.approx(1 - measure(model, eps=0.0).value)


def test_torch_softmax_over_the_batch_is_no_classifier() -> None:
    result = measure(nn.Sequential(linear(), nn.Softmax(0)))
    assert any("other samples" in reason for reason in result.reasons)


def test_torch_gradients_that_hooks_remove_are_missed() -> None:
    model = nn.Sequential(linear(), nn.Identity(), nn.Linear(2, 2, bias=False))
    nn.init.eye_(model[2].weight)
    model[1].register_full_backward_hook(lambda module, given, out: (given[0] * 0,))
    assert any("masked gradients" in reason for reason in measure(model).reasons)


# Number types


class WithScalar(nn.Module):
    """The first parameter is of another type than the rest."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.scalar = nn.Parameter(value, requires_grad=False)
        self.inner = linear()

    def forward(self, x: Any) -> Any:
        return self.inner(x)


class InBfloat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x).softmax(1)


@pytest.mark.parametrize(
    "build",
    [
        *(
            lambda value=value: WithScalar(value)
            for value in (
                torch.tensor(1.0, dtype=torch.float64),
                torch.tensor(1.0, dtype=torch.float16),
                torch.tensor([3]),
                torch.tensor(True),
                torch.tensor([1j]),
            )
        ),
        lambda: Around(lambda inner, x: x @ torch.as_tensor(W) + torch.as_tensor(BIAS), nn.ReLU()),
        lambda: Around(
            lambda inner, x: inner(x.to(torch.complex64)).real, linear().to(torch.complex64)
        ),
        lambda: Around(lambda inner, x: inner(x.mul_(1.0))),
        lambda: torch.jit.trace(linear(), torch.zeros(1, 6)),
        lambda: torch.jit.freeze(torch.jit.script(linear().eval())),
        lambda: nn.DataParallel(linear()),
    ],
)
def test_torch_models_of_every_type_meet_their_closed_form(build: Any) -> None:
    result = measure(build())
    assert result.trusted, result.reasons
    assert result.value == ROBUST.mean()


@pytest.mark.parametrize("build", [InBfloat, lambda: linear().bfloat16()])
@pytest.mark.parametrize("full", [False, True])
def test_torch_rounding_of_half_precision_is_no_doubt(build: Any, full: bool) -> None:
    result = measure(build(), full=full)
    assert result.trusted, result.reasons
    assert result.value == pytest.approx(ROBUST.mean(), abs=0.03)


# One sentence


class Named(NamedTuple):
    logits: Any


@dataclass
class Held:
    logits: Any


class ByName(nn.Module):
    def forward(self, *, x: Any) -> Any:
        return x


class Anything(nn.Module):
    def forward(self, **inputs: Any) -> Any:
        return inputs["x"]


REFUSED = {
    "returned dict; wrap": lambda: Around(lambda inner, x: {"logits": inner(x)}),
    "returned tuple; wrap": lambda: Around(lambda inner, x: (inner(x), x)),
    "returned Named; wrap": lambda: Around(lambda inner, x: Named(inner(x))),
    "returned Held; wrap": lambda: Around(lambda inner, x: Held(inner(x))),
    "returned NoneType; wrap": lambda: Around(lambda inner, x: None),
    r"class scores \[B, C\]": lambda: Around(lambda inner, x: inner(x)[:, :, None]),
    "sparse": lambda: Around(lambda inner, x: inner(x).to_sparse()),
    "complex": lambda: Around(lambda inner, x: inner(x) * 1j),
    "cannot be multiplied": lambda: nn.Linear(5, 2),
    "Expected 3D": lambda: nn.Conv2d(1, 2, 3),
    "KeyError: absent": lambda: Around(lambda inner, x: {}["absent"]),
    "AssertionError": lambda: Around(lambda inner, x: torch.testing.assert_close(x, x + 1)),
    r"needs \['x'\] by name; wrap": ByName,
    "forward raised TypeError": Anything,
    "'weight' has none yet": lambda: nn.LazyLinear(2),
    "'bias' has none yet|'weight' has none yet": lambda: nn.Linear(6, 2, device="meta"),
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.parametrize("full", [False, True])
def test_torch_what_cannot_be_measured_is_said_in_one_sentence(message: str, full: bool) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        measure(REFUSED[message](), full=full)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "forward",
    [
        lambda inner, x: inner(x).detach(),
        lambda inner, x: (inner(x) > 0).float(),
        lambda inner, x: torch.from_numpy(inner(x).detach().numpy()),
        lambda inner, x: inner(x).argmax(1),
    ],
)
def test_torch_outputs_without_gradient_are_named(forward: Any) -> None:
    with pytest.raises(NoGradientError, match="detached"):
        measure(Around(forward))


# The model comes back as it was


class Moves(nn.Module):
    """A forward pass that changes what it can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.seen = torch.cat([self.seen, torch.rand(1)])
        np.random.rand()  # noqa: NPY002 - as user code does
        return self.inner(x)


def test_torch_buffers_are_put_back() -> None:
    model = Moves()
    calls, seen = model.calls, model.seen
    assert measure(model).value == ROBUST.mean()
    assert model.calls is calls
    assert model.seen is seen
    assert float(model.calls) == 0
    assert model.seen.shape == (1,)


def test_torch_a_random_model_measures_the_same_each_time() -> None:
    model = Around(lambda inner, x: nn.functional.dropout(inner(x), 0.3))
    first = measure(model)
    torch.rand(7)
    assert measure(model) == first


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 200])
def test_torch_outputs_may_be_squeezed(outputs: int, n: int) -> None:
    """Attacks look at single samples, of which nothing but numbers may be left."""
    model = Around(lambda inner, x: inner(x).squeeze(), linear(outputs=outputs))
    for full in (False, True):
        result = measure(model, X[:n], Y[:n], full=full, at_least=0)
        assert result.value == ROBUST[:n].mean()
