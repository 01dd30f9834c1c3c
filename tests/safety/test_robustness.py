"""Attacks and robust accuracy: the core, on NumPy models whose worst case is known."""

import math
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import MembershipLeakage, RobustAccuracy, perturb
from rlhf_tune.safety.ladder import contradictions
from rlhf_tune.safety.logits import attack_loss

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")

RNG = np.random.default_rng(0)
X = RNG.random((300, 6))
W = RNG.normal(size=(6, 2))
Y = ((X - 0.5) @ W).argmax(axis=1)
Y[::7] = 1 - Y[::7]  # some are wrong before any attack


class Linear:
    """Outputs (x - 0.5) @ weights, and the exact signs of its margin gradient."""

    link: str | None = "logit"

    def __init__(self, weights: Any, shift: float = 0.0) -> None:
        self.weights, self.shift = np.asarray(weights), shift

    def outputs(self, x: Any) -> Any:
        return (x.astype(np.float64) - 0.5) @ self.weights + self.shift

    def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
        others = ~own if more.get("rival") is None else more["rival"]
        logits = np.where(others, Linear.outputs(self, x), -np.inf)
        rival = self.weights.T[logits.argmax(axis=1)]
        return np.sign(rival - self.weights.T[own.argmax(axis=1)]).reshape(x.shape)


def worst_case(weights: Any, x: Any, y: Any, eps: float) -> Any:
    """Whether a two-class linear model stays right within the box and [0, 1], in closed form."""
    pull = (weights[:, 1] - weights[:, 0])[None] * np.where(y == 1, -1, 1)[:, None]
    corner = np.where(pull > 0, np.minimum(x + eps, 1), np.maximum(x - eps, 0))
    return ((corner - 0.5) * pull).sum(axis=1) < 0


def measure(model: Any = None, x: Any = X, y: Any = Y, **arguments: Any) -> Any:
    arguments = {"eps": 0.1, "at_least": 0.5, **arguments}
    return RobustAccuracy(x, y, **arguments)(Linear(W) if model is None else model)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4, 1.0])
def test_linear_models_meet_their_closed_form(attack: Any, eps: float) -> None:
    robust = worst_case(W, X, Y, eps)
    assert 0 < worst_case(W, X, Y, 0.01).mean() < 1
    assert measure(eps=eps, attack=attack).value == robust.mean()
    moved = perturb(Linear(W), X, Y, eps=eps, attack=attack)
    np.testing.assert_array_equal(((moved - 0.5) @ W).argmax(axis=1) == Y, robust)


def test_no_attack_is_clean_accuracy() -> None:
    clean = (((X - 0.5) @ W).argmax(axis=1) == Y).mean()
    assert measure(eps=0).value == measure(eps=0, full=True).value == clean
    np.testing.assert_array_equal(perturb(Linear(W), X, Y, eps=0, attack="pgd"), X)


def test_the_exact_lower_bound_decides() -> None:
    result = measure(at_least=0.4)
    assert result.cost == pytest.approx(0.4 - result.interval[0])
    assert result.interval[0] < result.value < result.interval[1]
    assert result.n == len(X)
    assert measure(at_least=result.value).satisfied is False


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "noise"])
@pytest.mark.parametrize(
    ("dtype", "bounds", "eps"),
    [
        (np.float16, (0, 1), 0.1),
        (np.float32, (0, 1), 0.1),
        (np.float32, (-1.7, 2.3), 0.3),
        (np.float64, (0, 1), 1 / 3),
        (np.uint8, (0, 255), 8),
        (np.uint8, (0, 255), 7.65),
        (np.int8, (-128, 127), 3),
        (np.int32, (0, 255), 1),
    ],
)
def test_never_outside_the_budget_or_the_bounds(
    attack: Any, dtype: Any, bounds: Any, eps: float
) -> None:
    low, high = bounds
    x = (X * (high - low) + low).astype(dtype)
    x[:20] = np.asarray(low, dtype)
    x[20:40] = np.asarray(high, dtype)
    moved = perturb(Linear(W), x, Y, eps=eps, bounds=bounds, attack=attack, restarts=2)
    distance = np.abs(moved.astype(np.float64) - x.astype(np.float64))
    assert moved.dtype == dtype
    assert distance.max() <= eps
    assert distance.max() >= (math.floor(eps) if np.issubdtype(dtype, np.integer) else 0.99 * eps)
    assert moved.min() >= low  # in the data's own precision, as the inputs themselves
    assert moved.max() <= high


def test_byte_images_equal_their_scaled_copies() -> None:
    images = np.random.default_rng(3).integers(0, 256, (200, 6)).astype(np.uint8)

    class OfBytes(Linear):
        def outputs(self, x: Any) -> Any:
            return super().outputs(np.asarray(x) / 255)

    labels = OfBytes(W).outputs(images).argmax(axis=1)
    of_bytes = measure(OfBytes(W), images, labels, eps=8, bounds=(0, 255))
    of_floats = measure(Linear(W), images / 255, labels, eps=8 / 255)
    assert 0 < of_bytes.value == of_floats.value < 1


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "noise"])
def test_the_result_depends_on_the_seed_and_not_on_the_batch_size(attack: Any) -> None:
    def moved(batch_size: int, seed: int = 0) -> Any:
        return perturb(
            Linear(W), X, Y, eps=0.1, attack=attack, steps=4 if attack == "pgd" else None,
            restarts=2, batch_size=batch_size, seed=seed,
        )  # fmt: skip

    whole = moved(300)
    for batch_size in (1, 7, 256):
        np.testing.assert_array_equal(moved(batch_size), whole)
    assert (moved(300, seed=1) == whole).all() == (attack != "noise")


def test_inputs_and_labels_are_not_written_to() -> None:
    x, y = X.copy(), Y.copy()
    x.setflags(write=False)
    y.setflags(write=False)
    perturb(Linear(W), x, y, eps=0.1, attack="pgd")
    measure(x=x, y=y, full=True)
    np.testing.assert_array_equal(x, X)


def test_restarts_only_make_noise_worse() -> None:
    def rise(restarts: int) -> Any:
        moved = perturb(Linear(W), X, Y, eps=0.1, attack="noise", restarts=restarts)
        own = Y[:, None] == np.arange(2)
        return attack_loss(Linear(W).outputs(moved), own, "margin", np)

    assert (rise(5) >= rise(1)).all()
    assert (rise(5) > rise(1)).any()


def test_the_worse_loss_is_kept_per_sample() -> None:
    class TwoWays(Linear):
        """The margin gradient helps the first half, the cross-entropy's the second."""

        def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
            signs = super().direction(x, own, loss=loss, link=link, **more)
            good = (x[:, 5] < 0.5) == (loss == "margin")
            return np.where(good[:, None], signs, -signs)

    assert measure(TwoWays(W)).value == worst_case(W, X, Y, 0.1).mean()
    np.testing.assert_array_equal(
        perturb(TwoWays(W), X, Y, eps=0.1), perturb(Linear(W), X, Y, eps=0.1)
    )


# What makes a measurement untrusted


def test_an_honest_model_is_trusted_by_all_checks() -> None:
    result = measure(full=True)
    assert result.trusted, result.reasons
    assert result.value == worst_case(W, X, Y, 0.1).mean()
    assert result.details["pgd_half_range"] == 0
    assert result.details["clean_accuracy"] >= result.details["noise"] >= result.details["fgsm"]


def test_masked_gradients_are_noticed_for_free() -> None:
    class Masked(Linear):
        def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
            return np.zeros_like(x)

    result = measure(Masked(W))
    assert result.value == result.details["clean_accuracy"]
    assert (result.cost, result.trusted) == (math.inf, False)
    assert "masked gradients" in result.reasons[0]


def test_undefined_gradients_count_as_none() -> None:
    class Undefined(Linear):
        def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
            return np.full_like(x, np.nan)

    assert not measure(Undefined(W)).trusted
    assert np.isfinite(perturb(Undefined(W), X, Y, eps=0.1)).all()


def test_gradients_that_point_the_wrong_way_lose_to_noise() -> None:
    class Misleading(Linear):
        def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
            return -super().direction(x, own, loss=loss, link=link, **more)

    assert measure(Misleading(W)).trusted  # not visible for free
    result = measure(Misleading(W), full=True)
    assert result.value <= result.details["noise"] < result.details["fgsm"]
    assert any("noise beats FGSM" in reason for reason in result.reasons)
    assert any("chance" in reason for reason in result.reasons)


def test_a_model_that_does_not_repeat_itself_is_noticed() -> None:
    class Random(Linear):
        rng = np.random.default_rng(0)

        def outputs(self, x: Any) -> Any:
            return super().outputs(x) + self.rng.normal(0, 0.5, (len(x), 2))

    result = measure(Random(W), full=True)
    assert any("not deterministic" in reason for reason in result.reasons)


def test_outputs_that_are_not_finite_are_wrong_and_not_trusted() -> None:
    class Overflowing(Linear):
        def outputs(self, x: Any) -> Any:
            outputs = super().outputs(x)
            outputs[x[:, 0] > 0.9] = np.nan
            return outputs

    result = measure(Overflowing(W))
    assert result.details["clean_accuracy"] < measure().details["clean_accuracy"]
    assert result.reasons == ("the model's outputs are not finite",)


def test_probabilities_are_recognised_and_saturation_is_not_trusted() -> None:
    class Softmax(Linear):
        link = None

        def outputs(self, x: Any) -> Any:
            logits = super().outputs(x)
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            return odds / odds.sum(axis=1, keepdims=True)

    result = measure(Softmax(W))
    assert result.trusted
    assert result.value == measure().value
    saturated = measure(Softmax(1e4 * W))
    assert saturated.cost == math.inf
    assert "saturate" in saturated.reasons[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"no_gradient": 0.2}, "masked gradients"),
        ({"fgsm": 0.7}, "noise beats FGSM"),
        ({"pgd": 0.65, "pgd_double_steps": 0.6}, "FGSM beats PGD"),
        ({"pgd_half_eps": 0.3}, "accuracy rises with eps"),
        ({"pgd_half_range": 0.45}, "half the data range"),
        ({"pgd_half_range": 0.3}, "beats chance"),
        ({"pgd_double_steps": 0.3}, "has not converged"),
        ({"pgd_double_steps": 0.65}, "loses its way"),
        ({"fgsm": 0.62, "noise": 0.6}, None),  # within the tolerance
    ],
)
def testcontradictions(changes: dict[str, float], reason: str | None) -> None:
    accuracies = {
        "clean_accuracy": 0.9, "noise": 0.6, "fgsm": 0.5, "pgd": 0.4, "pgd_double_steps": 0.4,
        "pgd_half_eps": 0.5, "pgd_half_range": 0.0, "no_gradient": 0.0, "majority": 0.2,
    }  # fmt: skip
    found = contradictions(accuracies | changes, tolerance=0.05)
    assert bool(found) == (reason is not None)
    assert reason is None or any(reason in sentence for sentence in found)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 8.0}, r"`eps` must be within the data range \(0, 1\), but got 8; divide by 255"),
        ({"eps": -0.1}, "`eps` must be within"),
        ({"eps": math.nan}, "`eps` must be within"),
        ({"x": X * 255}, r"`x` must lie within bounds=\(0, 1\), but spans"),
        ({"x": np.where(X > 0.99, np.nan, X)}, "NaN or infinite"),
        ({"x": X[:10]}, "same length"),
        ({"x": X[:0], "y": Y[:0]}, "N >= 1"),
        ({"x": X[0]}, r"x\[None\]"),
        ({"x": X.astype(str)}, "must hold numbers"),
        ({"y": np.eye(2)[Y]}, "argmax"),
        ({"y": Y[:, None]}, r"y\[:, 0\]"),
        ({"y": Y + 0.5}, r"astype\(int\)"),
        ({"y": Y - 1}, "start at 0"),
        ({"y": Y + 1}, "below the model's 2 classes, but `y` has 2"),
        ({"bounds": (1, 0)}, "low < high"),
        ({"attack": "cw"}, "`attack` must be one of"),
        ({"x": (X * 255).astype(np.uint8), "bounds": (0, 255), "eps": 0.03}, "multiply it by 255"),
    ],
)
def test_bad_input_names_rule_value_and_remedy(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "y": Y, "eps": 0.1, **changes}
    with pytest.raises(InvalidInputError, match=message):
        perturb(Linear(W), **arguments)
    with pytest.raises(InvalidInputError, match=message):
        RobustAccuracy(**arguments, at_least=0.5)(Linear(W))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number >= 1, but got 0"),
        ({"restarts": 1.5}, "`restarts`"),
        ({"attack": "pgd", "steps": 0}, "`steps`"),
        ({"attack": "fgsm", "steps": 3}, "for attack='pgd' only"),
    ],
)
def test_bad_counts_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        perturb(Linear(W), X, Y, eps=0.1, **changes)


@pytest.mark.parametrize("changes", [{"at_least": 55}, {"confidence": 95}])
def test_bad_bounds_are_refused_by_the_constructor(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        RobustAccuracy(X, Y, **{"eps": 0.1, "at_least": 0.5, **changes})


def test_data_are_refused_before_the_model_is_asked() -> None:
    class Untouchable(Linear):
        def outputs(self, x: Any) -> Any:
            raise AssertionError("asked")

    with pytest.raises(InvalidInputError):
        perturb(Untouchable(W), X, Y, eps=9)


def test_robustness_and_leakage_combine() -> None:
    leakage = MembershipLeakage((X[:150], Y[:150]), (X[150:], Y[150:]), at_most=0.5)
    both = RobustAccuracy(X, Y, eps=0.1, at_least=0.99) & leakage
    result = both(Linear(W))
    assert result.name == "robust_accuracy[eps=0.1] & membership_leakage"
    assert result.cost == measure(at_least=0.99).cost > result.details["membership_leakage.cost"]


def test_the_clean_samples_are_forwarded_twice_and_the_attacked_ones_once() -> None:
    class Counting(Linear):
        seen = 0

        def outputs(self, x: Any) -> Any:
            self.seen += len(x)
            return super().outputs(x)

    model = Counting(W)
    result = measure(model)
    right = round(result.details["clean_accuracy"] * len(X))
    assert model.seen <= 2 * len(X) + 2 * right
