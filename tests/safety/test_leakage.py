"""Membership leakage on scores whose answer can be counted by hand."""

import math
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety import MembershipLeakage
from rlhf_tune.safety.leakage import ruled_out

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")


class Scorer:
    """A two-class model whose score of class 0 is its first input."""

    link: str | None = "logit"

    def outputs(self, x: Any) -> Any:
        return np.stack([x[:, 0], np.zeros(len(x))], axis=1).astype(np.float64)


def measure(members: Any, holdout: Any, **arguments: Any) -> Any:
    scores = np.concatenate([members, holdout])
    x = np.stack([scores, np.arange(len(scores))], axis=1)  # no two samples are equal
    y = np.zeros(len(scores), dtype=int)
    n = len(members)
    pairs = (x[:n], y[:n]), (x[n:], y[n:])
    return MembershipLeakage(*pairs, **{"at_most": 0.1, **arguments})(Scorer())


def test_the_threshold_may_miss_one_member_in_a_hundred() -> None:
    members = np.arange(200.0)  # two may be missed: the threshold is the third, 2.0
    assert ruled_out(members, np.array([-1.0, 1.9, 2.0, 2.1])) == 0.5
    assert ruled_out(members[:199], np.array([0.9, 1.0])) == 0.5  # one of 199


def test_scores_that_all_tie_reveal_nothing() -> None:
    result = measure(np.ones(300), np.ones(300))
    assert result.value == 0
    assert result.details["auc"] == 0.5
    assert result.details["found_at_1_percent_false_alarms"] == 0


def test_separate_scores_reveal_everything() -> None:
    result = measure(np.linspace(5, 6, 300), np.linspace(0, 1, 300))
    assert (result.value, result.details["auc"]) == (1, 1)
    assert result.details["found_at_1_percent_false_alarms"] == 1
    assert not result.satisfied


def test_scores_of_one_distribution_reveal_chance() -> None:
    rng = np.random.default_rng(0)
    result = measure(rng.normal(size=4000), rng.normal(size=4000))
    assert result.value == pytest.approx(0.01, abs=0.006)
    assert result.details["auc"] == pytest.approx(0.5, abs=0.02)
    assert result.satisfied


def test_a_shift_gives_the_normal_tail() -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    result = measure(rng.normal(1.0, 1, 20_000), rng.normal(size=20_000))
    assert result.value == pytest.approx(norm.cdf(norm.ppf(0.01) + 1), abs=0.01)
    assert result.details["auc"] == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.01)
    assert result.interval[0] < result.value < result.interval[1]


def test_seeing_nothing_in_twenty_samples_is_no_proof() -> None:
    with pytest.raises(TooFewSamplesError, match=r"at least 36 samples .* but there are 20"):
        measure(np.ones(20), np.ones(20))
    result = measure(np.ones(20), np.ones(20), at_most=0.2)
    assert result.value == 0
    assert result.interval[1] == pytest.approx(1 - 0.025**0.05)


def test_large_scores_do_not_tie() -> None:
    """Scores 1e-9 apart, which float32 and a rounded softmax would merge."""
    result = measure(20 + 1e-9 * np.arange(200), 20 - 1e-9 * np.arange(1, 201))
    assert result.value == 1


def test_the_measurement_repeats() -> None:
    rng = np.random.default_rng(2)
    members, holdout = rng.normal(1, 1, 300), rng.normal(size=300)
    assert measure(members, holdout) == measure(members, holdout)


def test_outputs_that_are_not_finite_are_not_trusted() -> None:
    class Broken(Scorer):
        def outputs(self, x: Any) -> Any:
            return np.full((len(x), 2), np.nan)

    x, y = np.arange(20.0).reshape(-1, 1), np.zeros(20, dtype=int)
    result = MembershipLeakage((x[:10], y[:10]), (x[10:], y[10:]), at_most=0.5)(Broken())
    assert result.cost == math.inf
    assert "not finite" in result.reasons[0]


def test_other_shapes_bounds_and_confidences_are_refused() -> None:
    x, y = np.zeros((4, 1)), np.zeros(4, dtype=int)
    with pytest.raises(InvalidInputError, match="one shape"):
        MembershipLeakage((x, y), (np.zeros((4, 2)), y), at_most=0.1)
    with pytest.raises(InvalidInputError, match="fraction"):
        MembershipLeakage((x, y), (x, y), at_most=10)
    with pytest.raises(InvalidInputError, match=r"within \(0.5, 1\)"):
        MembershipLeakage((x, y), (x, y), at_most=0.1, confidence=0.5)
    with pytest.raises(InvalidInputError, match="same length"):
        MembershipLeakage((x, y[:3]), (x, y), at_most=0.1)
