"""Boxes by feature, the rungs that attack survivors, and what counts as evidence."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_tune.errors import InvalidInputError, NoGradientError, TooFewSamplesError
from rlhf_tune.safety import RobustAccuracy, perturb
from rlhf_tune.safety.attacks import Box
from rlhf_tune.safety.evaluation import Evaluation
from rlhf_tune.safety.smoothed import smoothed_survivors
from rlhf_tune.safety.square import square_survivors
from rlhf_tune.safety.targeted import targeted_survivors

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")

RNG = np.random.default_rng(1)
D, C, N = 5, 4, 120
X = RNG.random((N, D))
W = RNG.normal(size=(D, C))


class Linear:
    """Logits (x - .5) @ W, with exact gradient signs."""

    link: str | None = "logit"
    flat = True

    def outputs(self, x: Any) -> Any:
        return (np.reshape(x, (len(x), -1)).astype(np.float64) - 0.5) @ W

    def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
        others = ~own if more.get("rival") is None else more["rival"]
        rivals = np.where(others, Linear.outputs(self, x), -np.inf).argmax(axis=1)
        return np.sign(W.T[rivals] - W.T[own.argmax(axis=1)]).reshape(x.shape)


Y = Linear().outputs(X).argmax(axis=1)


def worst_case(x: Any, y: Any, eps: Any, low: Any = 0.0, high: Any = 1.0) -> Any:
    """Whether no other class can be reached within the box, in closed form."""
    own = W.T[y]
    margins = []
    for rival in range(C):
        pull = W.T[rival] - own
        corner = np.where(pull > 0, np.minimum(x + eps, high), np.maximum(x - eps, low))
        gap = ((corner - 0.5) * pull).sum(axis=1)
        margins.append(np.where(y == rival, -1.0, gap))
    return np.max(margins, axis=0) < 0


def measure(model: Any = None, x: Any = X, y: Any = Y, **arguments: Any) -> Any:
    arguments = {"eps": 0.05, "at_least": 0, **arguments}
    return RobustAccuracy(x, y, **arguments)(model or Linear())


RADII = [
    0.05,
    np.array(0.05),
    [0.0, 0.02, 0.05, 0.1, 0.3],
    np.linspace(0, 0.2, D),
    np.zeros(D),
    [0, 0, 0.2, 0, 0],
]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("eps", RADII, ids=str)
def test_a_radius_may_differ_by_feature(eps: Any, full: bool) -> None:
    result = measure(eps=eps, full=full)
    exact = worst_case(X, Y, np.asarray(eps)).mean()
    assert result.value == exact if full else exact <= result.value <= exact + 0.05
    assert result.trusted, result.reasons
    moved = perturb(Linear(), X, Y, eps=eps)
    assert (np.abs(moved - X) <= np.asarray(eps)).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(np.zeros(D), np.ones(D)), (0, np.linspace(1, 2, D)), (-np.arange(D), 1.0), ([-1] * D, 1)],
)
def test_a_range_may_differ_by_feature(low: Any, high: Any) -> None:
    eps = np.minimum(0.3, (np.asarray(high) - np.asarray(low)) / 2)
    result = measure(eps=eps, bounds=(low, high), full=True)
    assert result.value == worst_case(X, Y, eps, np.asarray(low), np.asarray(high)).mean()


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 2, 3)])
def test_a_radius_may_differ_by_channel(shape: tuple[int, ...]) -> None:
    first = shape[0] == 3
    eps = np.array([0.0, 0.1, 0.2]).reshape((3, 1, 1) if first else (3,))
    x = RNG.random((20, *shape))
    box = Box.checked(x, eps, (0, 1))
    low, high = box.around(x)
    axis = 1 if first else 3
    reach = np.moveaxis(high - low, axis, 0).reshape(3, -1).max(axis=1)
    assert reach[0] == 0
    assert reach[1] <= 0.2 < reach[2] <= 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": [0.1, 0.2]}, r"`eps` must be a number or fit .* \(5,\), but has the shape \(2,\)"),
        (
            {"eps": [0.1, 0.2, 0.3, 0.4, 1.4]},
            r"within the data range \(0, 1\), but got 0\.1\.\.1\.4",
        ),
        ({"eps": [-0.1] * D}, "within the data range"),
        ({"eps": [math.nan] * D}, "within the data range"),
        ({"eps": "large"}, "`eps` must hold numbers"),
        ({"eps": None}, "`eps` must hold numbers"),
        ({"bounds": (np.zeros(3), 1)}, r"`bounds\[0\]` must be a number or fit"),
        ({"bounds": (np.ones(D), np.zeros(D))}, "low < high"),
        ({"bounds": 3}, r"\(low, high\)"),
        ({"bounds": (0, [1, 1, 1, 1, 0.5])}, r"x\[\d+, 4\] is"),
    ],
)
def test_radii_and_ranges_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        measure(**changes)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int16]),
    st.lists(st.floats(0, 0.5), min_size=D, max_size=D),
    st.integers(0, 3),
)
def test_nothing_leaves_the_box(dtype: Any, share: list[float], seed: int) -> None:
    whole = np.issubdtype(dtype, np.integer)
    top = 200 if whole else 1
    eps = np.round(np.array(share) * top) if whole else np.array(share)
    x = (X * top).astype(dtype)
    seen = []

    class Watching(Linear):
        def outputs(self, x: Any) -> Any:
            seen.append(x)
            return super().outputs(np.asarray(x) / top)

    keep = np.isin(np.arange(N), np.arange(40))
    RobustAccuracy(x[keep], Y[keep], eps=eps, bounds=(0, top), at_least=0, full=True, seed=seed)(
        Watching()
    )
    box = Box.checked(x, eps, (0, top))
    low, high = box.around(x[keep])
    wide = Box.checked(x, np.maximum(eps, top / 2 * (eps > 0)), (0, top)).around(x[keep])
    lowest, highest = np.minimum(low, wide[0]).min(), np.maximum(high, wide[1]).max()
    assert min(batch.min() for batch in seen) >= lowest
    assert max(batch.max() for batch in seen) <= highest


# The rungs that attack survivors


class Ripple(Linear):
    """The linear model behind gradients that point away from every boundary."""

    def direction(self, x: Any, own: Any, **more: Any) -> Any:
        return -super().direction(x, own, **more)


def test_search_finds_what_gradients_hide() -> None:
    result = measure(Ripple(), full=True, eps=0.2)
    assert result.details["targeted"] > result.details["square"]
    assert any("black-box search beats every gradient" in reason for reason in result.reasons)
    honest = worst_case(X, Y, 0.2).mean()
    assert honest <= result.value <= honest + 0.05


def test_search_alone_measures_a_model_without_gradients() -> None:
    class Detached(Linear):
        def direction(self, x: Any, own: Any, **more: Any) -> Any:
            raise NoGradientError("detached")

    result = measure(Detached(), full=True, eps=0.1)
    honest = worst_case(X, Y, 0.1).mean()
    assert honest <= result.value <= honest + 0.05
    assert result.reasons == (
        "no gradient leads to the inputs, so only search was tried: detached",
    )
    with pytest.raises(NoGradientError, match="full=True measures it by search"):
        measure(Detached())


def test_the_targeted_rung_reaches_a_class_that_others_hide() -> None:
    """The likeliest rival cannot be reached; another one can."""

    class Decoy(Linear):
        def direction(self, x: Any, own: Any, **more: Any) -> Any:
            if more.get("rival") is None:
                return np.zeros_like(x)
            return super().direction(x, own, **more)

    alive = np.ones(N, dtype=bool)
    evaluation = Evaluation(Decoy(), X, Y)
    left = targeted_survivors(evaluation, Box.checked(X, 0.1, (0, 1)), alive)
    np.testing.assert_array_equal(left, worst_case(X, Y, 0.1))


class Stairs(Linear):
    """The linear model of rounded inputs, which has gradients beside the edges only."""

    def outputs(self, x: Any) -> Any:
        return super().outputs(np.round(8 * x) / 8)

    def direction(self, x: Any, own: Any, **more: Any) -> Any:
        edge = np.abs(8 * x % 1 - 0.5) < 0.1
        return np.where(edge, super().direction(x, own, **more), 0.0)


def test_gradients_around_a_sample_lead_where_those_at_it_do_not() -> None:
    result = measure(Stairs(), full=True, eps=0.1)
    down, up = np.round(8 * np.maximum(X - 0.1, 0)) / 8, np.round(8 * np.minimum(X + 0.1, 1)) / 8
    honest = worst_case((down + up) / 2, Y, (up - down) / 2).mean()
    assert honest <= result.details["smoothed"] <= honest + 0.05
    assert result.details["smoothed"] < result.details["targeted"] - 0.05
    assert any("gradients around a sample find more" in reason for reason in result.reasons)


@pytest.mark.parametrize("shape", [(D,), (D, 1), (1, D), (1, D, 1), (D, 1, 1), (1, 1, 1, D)])
def test_search_takes_every_shape(shape: tuple[int, ...]) -> None:
    x = X.reshape(-1, *shape)
    evaluation = Evaluation(Linear(), x, Y)
    box = Box.checked(x, 0.1, (0, 1))
    left = square_survivors(evaluation, box, np.ones(N, dtype=bool))
    honest = worst_case(X, Y, 0.1)
    assert not (honest & ~left).any(), "nothing is found that cannot be reached"
    assert left.mean() <= honest.mean() + 0.1


def test_a_rung_attacks_survivors_only() -> None:
    evaluation = Evaluation(Linear(), X, Y)
    box = Box.checked(X, 1.0, (0, 1))
    nobody = np.zeros(N, dtype=bool)
    for rung in (square_survivors, smoothed_survivors, targeted_survivors):
        assert not rung(evaluation, box, nobody).any()


@pytest.mark.parametrize("full", [False, True])
def test_the_order_of_the_samples_does_not_matter(full: bool) -> None:
    order = np.random.default_rng(3).permutation(N)
    first, second = (
        measure(Ripple(), X[rows], Y[rows], full=full, eps=0.2, attack="pgd")
        for rows in (np.arange(N), order)
    )
    assert first == second


# Evidence


def test_equal_samples_count_once() -> None:
    x, y = np.repeat(X[:30], 4, axis=0), np.repeat(Y[:30], 4)
    result = measure(x=x, y=y)
    assert (result.n, result.value) == (30, measure(x=X[:30], y=Y[:30]).value)
    assert "of 120 samples 90 are equal to others and count once" in result.notes
    with pytest.raises(TooFewSamplesError, match=r"at least 59 samples .* there are 30"):
        measure(x=x, y=y, at_least=0.95)


def test_one_input_with_two_labels_is_two_samples() -> None:
    x, y = np.concatenate([X[:20], X[:20]]), np.concatenate([Y[:20], (Y[:20] + 1) % C])
    result = measure(x=x, y=y, eps=0)
    assert (result.n, result.value) == (40, 0.5)


@pytest.mark.parametrize(
    ("scale", "eps", "doubted"),
    [
        (255, 8 / 255, True),
        (255, 8.0, False),
        (255, [8 / 255, 0, 0, 0, 0], True),
        (255, [8 / 255, 8, 8, 8, 8], False),
        (255, 0, False),
        (1, 1e-4, False),
    ],
)
def test_a_radius_in_other_units_is_doubted(scale: float, eps: Any, doubted: bool) -> None:
    class Scaled(Linear):
        def outputs(self, x: Any) -> Any:
            return super().outputs(np.asarray(x) / scale)

    result = measure(Scaled(), scale * X, eps=eps, bounds=(0, scale))
    assert any("in the units of `x`" in reason for reason in result.reasons) == doubted
    assert result.trusted != doubted


def test_what_a_reader_should_know_is_noted() -> None:
    assert "eps is 0: this is clean accuracy" in measure(eps=0).notes
    wrong = (Y + 1) % C
    assert any("no better than always naming" in note for note in measure(y=wrong).notes)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"eps": 0.1}, "robust_accuracy[eps=0.1]"),
        ({"eps": 8 / 255}, "robust_accuracy[eps=0.0313725]"),
        ({"eps": 0.1, "attack": "pgd"}, "robust_accuracy[pgd, eps=0.1]"),
        ({"eps": 0.1, "full": True}, "robust_accuracy[full, eps=0.1]"),
        ({"eps": [0, 0.1, 0.2, 0.1, 0.3]}, "robust_accuracy[eps=0..0.3]"),
        ({"eps": 0.1, "name": "mine"}, "mine"),
    ],
)
def test_the_name_tells_what_was_measured(arguments: dict[str, Any], name: str) -> None:
    rule = RobustAccuracy(X, Y, at_least=0, **arguments)
    assert rule.name == rule(Linear()).name == name
