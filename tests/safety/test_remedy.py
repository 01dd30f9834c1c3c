"""Remedies: how their weights move, and what a robustness floor offers."""

import math

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety import Measurement, RobustAccuracy, constraint
from rlhf_tune.safety.remedy import Remedy

RNG = np.random.default_rng(0)
X, Y = RNG.random((400, 3)), RNG.integers(0, 2, 400)


def nothing(model, batch, outputs, weights):
    return 0.0


def floor(low, *, bound=0.5, trusted=True):
    cost = bound - low if trusted else math.inf
    return Measurement("m", low + 0.1, bound, (low, 1.0), 100, cost, trusted=trusted)


@pytest.mark.parametrize(
    ("low", "expected"),
    [(0.1, 0.45), (0.48, 0.35), (0.5, 0.25), (0.502, 0.24), (0.9, 0.2)],
)
def test_a_weight_rises_with_what_is_missed_and_falls_slowly(low, expected):
    remedy = Remedy(("w",), nothing)
    assert remedy.update(remedy.first, floor(low)) == pytest.approx({"w": expected})


def test_a_weight_keeps_its_range():
    remedy = Remedy(("w",), nothing)
    assert remedy.update({"w": 0.9}, floor(0.0)) == {"w": 0.95}
    assert remedy.update({"w": 0.06}, floor(1.0)) == {"w": 0.05}
    assert remedy.exhausted({"w": 0.95})
    assert remedy.exhausted({"w": float(np.float32(0.95))})
    assert not remedy.exhausted({"w": 0.94})


def test_a_ceiling_is_missed_from_above_and_doubt_does_not_move_a_weight_by_itself():
    over = Measurement("m", 0.3, 0.2, (0.2, 0.23), 100, 0.03, kind="ceiling")
    remedy = Remedy(("a", "b"), nothing)
    assert remedy.update(remedy.first, over) == pytest.approx({"a": 0.4, "b": 0.4})
    assert remedy.update(remedy.first, floor(0.51, trusted=False))["a"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": ()},
        {"names": ("w", "w")},
        {"names": (" ",)},
        {"term": None},
        {"start": 0.99},
        {"rise": -0.1},
    ],
)
def test_what_is_no_remedy_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        Remedy(**{"names": ("w",), "term": nothing, **wrong})


def test_a_robustness_floor_offers_adversarial_training():
    assert RobustAccuracy(X, Y, eps=0.1, at_least=0.5).remedy().names == ("adversarial_weight",)
    assert RobustAccuracy(X, Y, eps=0, at_least=0.5).remedy() is None
    assert RobustAccuracy(X, Y, eps=0.1, at_least=0.5, attack="noise").remedy() is None
    assert constraint("size", lambda model: 1.0, at_most=2).remedy() is None


def test_halves_share_no_sample_and_ask_for_more_confidence():
    torch = pytest.importorskip("torch")
    both = RobustAccuracy(np.r_[X, X[:7]], np.r_[Y, Y[:7]], eps=0.1, at_least=0.2)
    model = torch.nn.Linear(3, 2).double()
    steers, certifies = (half(model) for half in both.halves(3))
    assert steers.name == certifies.name == both.name
    assert steers.n + certifies.n == both(model).n == 400
    parts = [{row.tobytes() for row in half._x} for half in both.halves(3)]
    assert not parts[0] & parts[1]
    whole, shared = (both.halves(n)[1](model).interval[0] for n in (1, 3))
    assert shared < whole
    assert set(certifies.details) > {"square", "targeted"}
    assert "pgd" in steers.details
    assert "fgsm" not in steers.details


def test_a_measure_that_cannot_be_divided_is_both_halves():
    size = constraint("size", lambda model: 1.0, at_most=2)
    assert size.halves(3) == (size, size)


def test_halves_that_are_too_small_are_refused_with_the_number_needed():
    few = RobustAccuracy(X[:60], Y[:60], eps=0.1, at_least=0.9)
    needed = 2 * math.ceil(math.log(0.05 / 3) / math.log(0.9))
    with pytest.raises(TooFewSamplesError, match=f"at least {needed} different"):
        few.halves(3)
