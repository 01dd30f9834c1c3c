"""The constraint on gaps: what it measures on models, and what it refuses."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety import GroupFairness, constraint, fairness_report, weighted_sum

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")

RNG = np.random.default_rng(5)
N = 2000
SEX = RNG.choice(["f", "m"], N)
RACE = RNG.choice(["a", "b", "c"], N)
X = np.column_stack([RNG.normal(size=N), SEX == "m", RACE == "a"])
Y = (X[:, 0] + 0.3 * X[:, 1] + RNG.normal(size=N) > 0).astype(int)


class Scorer:
    """Logits of some classes that are a weighted sum of the inputs."""

    link: str | None = "logit"

    def __init__(self, *weights: float, classes: int = 2) -> None:
        self.weights, self.classes = np.array(weights), classes

    def outputs(self, x: Any) -> Any:
        score = x @ self.weights
        return np.stack([np.zeros(len(x)), score, *[score - 9] * (self.classes - 2)], axis=1)

    def predict(self, x: Any) -> Any:
        return (x @ self.weights > 0).astype(int)


MODEL = Scorer(1.0, 0.4, 0.1)


@pytest.mark.parametrize("metric", ["demographic_parity", "equal_opportunity", "equalized_odds"])
def test_it_measures_what_the_report_says(metric: str) -> None:
    sensitive = {"sex": SEX, "race": RACE}
    report = fairness_report(Y, MODEL.predict(X), sensitive)
    found = GroupFairness(X, Y, sensitive, at_most=0.3, metric=metric)(MODEL)
    assert found.value == pytest.approx(report.macro[metric].value)
    assert found.interval == pytest.approx(report.macro[metric].interval)
    assert found.cost == pytest.approx(found.interval[1] - 0.3)
    assert (found.name, found.kind, found.trusted) == (metric, "ceiling", True)
    assert found.details["accuracy"] == report.overall.accuracy
    for key in ("sex", "race"):
        assert found.details[key] == pytest.approx(report.by_level[key][metric].value)


def test_rates_of_groups_are_among_the_details() -> None:
    found = GroupFairness(X, Y, {"sex": SEX}, at_most=0.3)(MODEL)
    rate = MODEL.predict(X)[SEX == "m"].mean()
    assert found.details["selection_rate[sex=m]"] == pytest.approx(rate)


def test_what_treats_groups_alike_passes_and_what_does_not_is_refused() -> None:
    fair = GroupFairness(X, Y, SEX, at_most=0.1)
    assert fair(Scorer(1.0, 0.0, 0.0)).satisfied
    assert not fair(Scorer(1.0, 1.0, 0.0)).satisfied


def test_a_model_that_learned_nothing_keeps_the_ceiling_so_a_floor_belongs_beside_it() -> None:
    fair = GroupFairness(X, Y, SEX, at_most=0.1)
    nothing = Scorer(0.0, 0.0, 0.0)
    assert fair(nothing).satisfied
    accuracy = constraint("accuracy", lambda model: model.predict(X) == Y, at_least=0.6)
    assert not (fair & accuracy)(nothing).satisfied
    assert (fair & accuracy)(Scorer(1.0, 0.0, 0.0)).satisfied


def test_small_groups_are_left_out_with_a_note() -> None:
    sex = SEX.astype("U9")
    sex[:4] = "other"
    found = GroupFairness(X, Y, sex, at_most=0.3)(MODEL)
    assert found.notes == ("group: other is left out: 4 of at least 20 samples",)


def test_saturated_probabilities_tell_the_class_all_the_same() -> None:
    class Saturated(Scorer):
        link = "probability"

        def outputs(self, x: Any) -> Any:
            return np.eye(2)[self.predict(x)]

    assert GroupFairness(X, Y, SEX, at_most=0.3)(Saturated(1.0, 0.4, 0.1)).trusted


def test_outputs_that_are_not_finite_are_no_evidence() -> None:
    class Broken(Scorer):
        def outputs(self, x: Any) -> Any:
            return np.full((len(x), 2), np.nan)

    found = GroupFairness(X, Y, SEX, at_most=0.3)(Broken(1.0))
    assert not found.trusted
    assert found.cost == np.inf


def test_of_several_classes_one_is_named() -> None:
    many = Scorer(1.0, 0.4, 0.1, classes=4)
    with pytest.raises(InvalidInputError, match="for a model of 4 classes: positive=1"):
        GroupFairness(X, Y, SEX, at_most=0.3)(many)
    found = GroupFairness(X, Y, SEX, at_most=0.3, positive=1)(many)
    assert found.value == GroupFairness(X, Y, SEX, at_most=0.3)(MODEL).value
    # The rate of the other class differs by as much.
    other = GroupFairness(X, Y, SEX, at_most=0.3, positive=0)(MODEL)
    assert other.value == pytest.approx(found.value)


def test_halves_are_disjoint_have_every_group_and_steer_at_another_confidence() -> None:
    whole = GroupFairness(X, Y, {"sex": SEX, "race": RACE}, at_most=0.3, metric="equalized_odds")
    steering, certifying = whole.halves(3)
    rows = [{tuple(row) for row in part._x} for part in (steering, certifying)]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == N
    values = [part(MODEL).interval for part in (steering, certifying)]
    assert values[0] != values[1]
    for part in (steering, certifying):
        assert part.name == whole.name
        narrower = part.at_confidence(0.95)(MODEL)
        assert narrower.interval[1] < part(MODEL).interval[1]
    sizes = [steering._levels[0].counts(part == 1) for part in (steering._y, certifying._y)]
    assert np.abs(sizes[0] - sizes[1]).max() <= 8


def test_halves_that_are_too_small_are_said() -> None:
    tight = GroupFairness(X, Y, SEX, at_most=0.04)
    with pytest.raises(TooFewSamplesError, match="a half of the samples steers the run"):
        tight.halves(3)


def test_a_ceiling_narrower_than_the_half_width_is_refused() -> None:
    with pytest.raises(TooFewSamplesError, match=r"more than at_most=0\.03: there are"):
        GroupFairness(X, Y, SEX, at_most=0.03)
    few = np.flatnonzero((Y == 0) | (np.cumsum(Y) <= 266))  # 133 positives a group, or so
    with pytest.raises(TooFewSamplesError, match="samples with a positive label of 'group"):
        GroupFairness(X[few], Y[few], SEX[few], at_most=0.05, metric="equal_opportunity")


def test_a_weighted_sum_is_bounded_by_the_sum_of_bounds() -> None:
    by_sex = GroupFairness(X, Y, SEX, at_most=0.3, name="sex")
    by_race = GroupFairness(X, Y, RACE, at_most=0.3, name="race")
    found = weighted_sum([(by_sex, 1.0), (by_race, 0.5)], at_most=0.25)(MODEL)
    parts = [part.at_confidence(0.975)(MODEL) for part in (by_sex, by_race)]
    assert found.value == pytest.approx(parts[0].value + 0.5 * parts[1].value)
    assert found.interval[1] == pytest.approx(parts[0].interval[1] + 0.5 * parts[1].interval[1])
    assert found.details["sex"] == parts[0].value
    assert found.name == "1 sex + 0.5 race"
    with pytest.raises(TooFewSamplesError, match="groups that are treated alike the sum could be"):
        weighted_sum([(by_sex, 1.0), (by_race, 0.5)], at_most=0.05)
    with pytest.raises(InvalidInputError, match="different names"):
        weighted_sum([(by_sex, 1.0), (by_sex, 1.0)], at_most=0.5)
    with pytest.raises(InvalidInputError, match="weights must be above 0"):
        weighted_sum([(by_sex, 0.0)], at_most=0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "parity"}, r"`metric` must be one of \['demographic_parity'"),
        ({"y": Y + 1}, "labels must be 0 or 1, but `y` has 2; .*positive=2"),
        ({"y": Y * 0.5}, "`y` must hold integer class labels"),
        ({"positive": "yes"}, "`positive` must be a class"),
        ({"at_most": 5}, "`at_most` must be a fraction"),
        ({"sensitive": np.full(N, "f")}, "at least two groups"),
        ({"sensitive": SEX[1:]}, "has 1999"),
        ({"sensitive": np.where(SEX == "f", np.nan, 1.0)}, "None or NaN"),
        ({"sensitive": X[:, 0]}, "2000 different numbers"),
        ({"confidence": 0.4}, "`confidence` must be within"),
        (
            {"y": np.where(SEX == "f", 0, Y), "metric": "equal_opportunity"},
            "at least two groups must have labels that equal_opportunity compares",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], says: str) -> None:
    arguments = {"x": X, "y": Y, "sensitive": SEX, "at_most": 0.2, **change}
    with pytest.raises(InvalidInputError, match=says):
        GroupFairness(**arguments)
