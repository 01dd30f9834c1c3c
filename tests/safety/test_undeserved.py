"""Models that look robust and are not: none gets a passing measurement it does not deserve."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety import RobustAccuracy

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")

EPS, FLOOR = 0.3, 0.2


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Training tensors, held-out arrays."""
    data = datasets.load_digits()
    x, y = (data.images / 16).astype(np.float32)[:, None], data.target
    return torch.tensor(x[:1000]), torch.tensor(y[:1000]), x[1300:], y[1300:]


def train(digits: Any, *, attacked: bool, epochs: int) -> Any:
    """A small CNN, on clean or on single-step adversarial images."""
    x, y, _, _ = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn = torch.nn
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                images = x[rows]
                if attacked:
                    leaf = images.clone().requires_grad_()
                    loss = nn.functional.cross_entropy(model(leaf), y[rows])
                    (gradient,) = torch.autograd.grad(loss, leaf)
                    images = (leaf + EPS * gradient.sign()).clamp(0, 1).detach()
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), y[rows]).backward()
                optimizer.step()
    return model


@pytest.fixture(scope="module")
def plain(digits: Any) -> Any:
    return train(digits, attacked=False, epochs=6)


class Times(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Any) -> Any:
        return self.factor * x


def robust(digits: Any, **changes: Any) -> RobustAccuracy:
    return RobustAccuracy(*digits[2:], **{"eps": EPS, "at_least": FLOOR, "full": True, **changes})


def test_the_plain_model_fails(digits: Any, plain: Any) -> None:
    measured = robust(digits)(plain)
    assert measured.trusted
    assert measured.value < 0.1
    assert not measured.satisfied


@pytest.mark.parametrize("factor", [1e-3, 1e2, 1e6])
@pytest.mark.parametrize("full", [True, False])
def test_confidence_earns_nothing(digits: Any, plain: Any, factor: float, full: bool) -> None:
    """Scaled logits: the same predictions, other softmax gradients."""
    scaled = torch.nn.Sequential(plain, Times(factor))
    base, measured = robust(digits, full=full)(plain), robust(digits, full=full)(scaled)
    assert not measured.satisfied
    assert measured.value <= base.value + 0.02


@pytest.mark.parametrize("full", [True, False])
def test_saturated_probabilities_are_not_trusted(digits: Any, plain: Any, full: bool) -> None:
    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain

        def forward(self, x: Any) -> Any:
            return torch.softmax(1e3 * self.inner(x), 1)

    measured = robust(digits, full=full)(Probabilities())
    assert not measured.trusted
    assert not measured.satisfied


def test_a_model_that_overfitted_to_fgsm_passes_only_the_weak_attack(digits: Any) -> None:
    """Single-step adversarial training (Wong, Rice and Kolter 2020, arXiv:2001.03994)."""
    model = train(digits, attacked=True, epochs=16)
    assert robust(digits, full=False, at_least=0.1)(model).satisfied
    measured = robust(digits, at_least=0.1)(model)
    assert not measured.satisfied
    assert measured.details["pgd"] < measured.details["fgsm"] - 0.1


@pytest.mark.parametrize("full", [True, False])
def test_a_constant_model_is_no_better_than_its_majority(digits: Any, full: bool) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten(1)[:, :10] * 0 + torch.arange(10.0)

    measured = robust(digits, full=full, at_least=0.05)(Constant())
    assert not measured.satisfied
    assert not measured.trusted


def test_weights_that_are_not_finite_are_not_trusted(digits: Any) -> None:
    broken = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.nn.init.constant_(broken[1].weight, float("nan"))
    measured = robust(digits)(broken)
    assert measured.value == 0
    assert not measured.trusted


def test_one_sample_proves_little(digits: Any, plain: Any) -> None:
    x, y = digits[2][:1], digits[3][:1]
    with pytest.raises(TooFewSamplesError, match=r"at least 5 samples are needed .* there are 1"):
        RobustAccuracy(x, y, eps=1e-4, at_least=0.5)
    measured = RobustAccuracy(x, y, eps=1e-4, at_least=0.05)(plain)
    assert measured.n == 1
    assert measured.interval[0] == pytest.approx(0.05)


def test_samples_of_one_class_only_are_no_proof(digits: Any) -> None:
    """A model that always says 3 is always right on threes."""

    class Three(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten(1)[:, :10] * 0 + torch.eye(10)[3]

    threes = digits[3] == 3
    measured = RobustAccuracy(
        digits[2][threes], digits[3][threes], eps=EPS, at_least=0.5, full=True
    )(Three())
    assert not measured.satisfied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:, None]), r"`y`.*\[N\]"),
        (lambda x, y: (x, np.eye(10)[y]), r"`y`.*\[N\]"),
        (lambda x, y: (16 * x, y), "bounds"),
        (lambda x, y: (x, y + 0.5), "integer"),
        (lambda x, y: (np.where(x > 2, 0, np.nan), y), "finite|NaN"),
    ],
)
def test_other_labels_and_ranges_are_refused(digits: Any, change: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        RobustAccuracy(*change(*digits[2:]), eps=EPS, at_least=FLOOR)
