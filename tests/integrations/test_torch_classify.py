"""The torch adapter: exact on linear models, without side effects."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from linear_models import ROBUST, X, Y, linear, measure, random_streams

from rlhf_tune import frameworks
from rlhf_tune.errors import UnsupportedModelError
from rlhf_tune.safety import MembershipLeakage, perturb

torch = pytest.importorskip("torch")


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
def test_torch_linear_models_meet_their_closed_form(build: Any, attack: Any) -> None:
    result = measure(build(), attack=attack)
    assert result.trusted, result.reasons
    assert result.value == ROBUST.mean()


def test_torch_one_output_within_0_and_1_must_be_declared() -> None:
    model = Wrapped(linear(outputs=1), torch.sigmoid)
    result = measure(model)
    assert not result.trusted
    assert "outputs='probabilities'" in result.reasons[0]
    declared = measure(model, outputs="probabilities")
    assert declared.trusted, declared.reasons
    assert declared.value == ROBUST.mean()
    logit = Wrapped(linear(outputs=1), lambda z: 0.5 + 0.1 * z)  # class 1 above 0: always
    assert measure(logit, outputs="logits", eps=0.0).value == (Y == 1).mean()


def test_torch_saturated_probabilities_are_not_trusted() -> None:
    result = measure(Wrapped(linear(1e4), lambda z: z.softmax(1)))
    assert not result.trusted
    assert any("saturate" in reason for reason in result.reasons)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_half_precision(dtype: Any) -> None:
    assert measure(linear().to(dtype)).value == pytest.approx(ROBUST.mean(), abs=0.02)


def test_torch_equals_cleverhans_where_its_softmax_is_sound(cleverhans: Any) -> None:
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    from rlhf_tune.safety.attacks import Attack
    from rlhf_tune.safety.evaluation import Evaluation

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
        evaluation, rows = Evaluation(classifier, X, Y), np.arange(len(X))
        for name, theirs in (("fgsm", fgsm), ("pgd", pgd)):
            attack = Attack.checked(name, X, 0.1, (0, 1))  # type: ignore[arg-type]
            attack = replace(attack, steps=5)
            ours, _ = attack.move(evaluation, rows, "cross_entropy", FromTheMiddle())  # type: ignore[arg-type]
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


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
                MembershipLeakage((X[:99], Y[:99]), (X[99:], Y[99:]), at_most=0.5)(model)
            optimizer.step()
        return model.state_dict() | {"stream": torch.rand(4)}

    for ours, theirs in zip(trained(True).values(), trained(False).values(), strict=True):
        assert torch.equal(ours, theirs)


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
            with pytest.raises(UnsupportedModelError, match="raised AttributeError"):
                measure(model)
        else:
            measure(model)
            assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch_state(model) == before


def test_torch_dropout_that_ignores_eval_keeps_the_random_stream() -> None:
    model = Wrapped(network(), lambda z: torch.nn.functional.dropout(z, 0.5))
    before = torch.get_rng_state()
    result = measure(model, X[:50], Y[:50], full=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert any("not deterministic" in reason for reason in result.reasons)


def test_torch_result_does_not_depend_on_the_batch_size() -> None:
    model = network()
    whole = perturb(model, X[:40], Y[:40], eps=0.1)
    for batch_size in (1, 32):
        moved = perturb(model, X[:40], Y[:40], eps=0.1, batch_size=batch_size)
        np.testing.assert_array_equal(moved, whole)


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


def test_torch_labels_in_place_of_scores_are_told_as_such() -> None:
    names_a_class = Wrapped(linear(), lambda z: torch.arange(len(z)) % 3)
    with pytest.raises(UnsupportedModelError, match="as if they were labels; return the scores"):
        measure(names_a_class, X, np.arange(len(X)) % 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_torch_on_a_gpu() -> None:
    stream = torch.cuda.get_rng_state()
    assert measure(linear().cuda()).value == ROBUST.mean()
    assert torch.equal(torch.cuda.get_rng_state(), stream)
