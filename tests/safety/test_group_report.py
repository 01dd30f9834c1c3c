"""The report: fairlearn's values, levels, and what is undefined or left out."""

import json
import math
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import fairness_report

RNG = np.random.default_rng(3)
N = 1500
SEX = RNG.choice(["f", "m"], N, p=[0.35, 0.65])
RACE = RNG.choice(["a", "b", "c"], N, p=[0.5, 0.3, 0.2])
Y = (RNG.random(N) < 0.3 + 0.2 * (SEX == "m")).astype(int)
PRED = (RNG.random(N) < 0.2 + 0.5 * Y + 0.1 * (RACE == "a")).astype(int)
BOTH = {"sex": SEX, "race": RACE}


def test_it_equals_fairlearn_on_two_attributes_and_their_intersection() -> None:
    metrics = pytest.importorskip("fairlearn.metrics")
    report = fairness_report(Y, PRED, BOTH)
    columns: dict[Any, Any] = {**BOTH, ("sex", "race"): np.stack([SEX, RACE], axis=1)}
    assert report.by_level.keys() == columns.keys()
    for key, column in columns.items():
        for name, function in {
            "demographic_parity": metrics.demographic_parity_difference,
            "equal_opportunity": metrics.equal_opportunity_difference,
            "equalized_odds": metrics.equalized_odds_difference,
        }.items():
            theirs = function(Y, PRED, sensitive_features=column)
            assert report.by_level[key][name].value == pytest.approx(theirs, rel=0, abs=1e-9)


def test_the_worst_level_speaks_for_all() -> None:
    report = fairness_report(Y, PRED, BOTH)
    for name, largest in report.macro.items():
        gaps = [gaps[name] for gaps in report.by_level.values()]
        assert largest.value == max(gap.value for gap in gaps)
        assert largest.interval[1] == max(gap.interval[1] for gap in gaps)
        key = report.worst_level[name]
        assert key is not None
        assert report.by_level[key][name].value == largest.value


def test_rates_are_those_of_each_group() -> None:
    report = fairness_report(Y, PRED, BOTH)
    of = (SEX == "f") & (RACE == "c")
    found = report.rates["sex", "race"]["f, c"]
    assert found.n == of.sum()
    assert found.accuracy == (Y[of] == PRED[of]).mean()
    assert found.true_positive_rate == PRED[of & (Y == 1)].mean()
    assert report.overall.selection_rate == PRED.mean()


def test_a_group_of_one_person_is_skipped() -> None:
    sex = SEX.astype("U9")
    sex[0] = "other"
    report = fairness_report(Y, PRED, {"sex": sex})
    assert report.skipped == {"sex: other": "1 of at least 20 samples"}
    assert set(report.rates["sex"]) == {"f", "m"}


def test_a_group_without_positives_does_not_decide() -> None:
    """fairlearn counts its rate of true positives as 0, a gap that is none."""
    y = np.where(RACE == "c", 0, Y)
    report = fairness_report(y, PRED, RACE)
    known = [PRED[(race == RACE) & (y == 1)].mean() for race in "ab"]
    opportunity = report.by_level["group"]["equal_opportunity"]
    assert opportunity.value == pytest.approx(abs(known[0] - known[1]))
    assert "c" not in opportunity.between
    assert math.isnan(report.rates["group"]["c"].true_positive_rate)


def test_without_any_positives_the_rates_are_undefined_not_zero() -> None:
    report = fairness_report(np.zeros(N, dtype=int), PRED, SEX)
    gaps = report.by_level["group"]
    assert math.isnan(gaps["equal_opportunity"].value)
    assert not gaps["equal_opportunity"].defined
    assert gaps["equalized_odds"].value > 0  # of false positives
    assert report.worst_level["equal_opportunity"] is None
    assert json.loads(report.to_json())["macro"]["equal_opportunity"]["value"] is None
    assert "undefined" in report.to_markdown()


def test_consistency_is_that_of_nearest_neighbours() -> None:
    pytest.importorskip("sklearn")
    x = np.arange(40.0)[:, None]
    pred = (x[:, 0] >= 20).astype(int)
    sex = np.array(["f", "m"] * 20)
    report = fairness_report(pred, pred, sex, x=x, neighbours=2)
    # Two neighbours of the samples 19 and 20 are on either side; all others agree.
    assert report.micro_consistency == pytest.approx(1 - 2 * 0.5 / 40)
    assert fairness_report(pred, pred, sex).micro_consistency is None


def test_the_markdown_and_the_json_tell_the_same() -> None:
    report = fairness_report(Y, PRED, BOTH)
    told = json.loads(report.to_json())
    assert told["by_level"]["sex x race"]["demographic_parity"]["value"] == pytest.approx(
        report.macro["demographic_parity"].value
    )
    text = report.to_markdown()
    assert f"{report.macro['demographic_parity'].value:.3f}" in text
    assert "| sex x race |" in text


def test_it_prints_as_a_table_that_tells_the_same() -> None:
    sex = SEX.astype(object)
    sex[0] = "\x1b[31mother"
    report = fairness_report(Y, PRED, {"sex": sex, "race": RACE})
    text = str(report)
    rates = report.rates["sex"]["f"]
    (row,) = (line for line in text.splitlines() if line.split()[:2] == ["sex", "f"])
    assert row.split()[2:4] == [str(rates.n), f"{rates.accuracy:.4g}"]
    gap = report.by_level["sex", "race"]["equalized_odds"]
    assert f"equalized odds of sex x race: {gap.value:.3f} ({gap.interval[0]:.3f}" in text
    assert "left out: sex: " in text
    assert "\x1b" not in text
    assert "<table>" in report._repr_html_()


GOOD: dict[str, Any] = {"y_true": Y, "y_pred": PRED, "sensitive": SEX}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_true": Y + 1}, "`y_true` must be binary, 0 or 1, but holds 2"),
        ({"y_pred": PRED * 0.5}, "`y_pred` must be binary, 0 or 1, but holds 0.5"),
        ({"y_pred": PRED.astype(str)}, "`y_pred` must hold numbers"),
        ({"y_pred": PRED[1:]}, "the same length, but got 1500 and 1499"),
        ({"y_true": np.full(N, np.nan)}, "`y_true` must be binary"),
        ({"y_true": np.stack([Y, Y], 1)}, r"must have the shape \[N\], but got \(1500, 2\)"),
        ({"x": np.zeros((9, 2))}, r"shape \[1500, ...\] with more samples than neighbours=5"),
        ({"x": np.full((N, 2), np.nan)}, "`x` must be finite"),
        ({"min_group_size": 0}, "`min_group_size` must be a whole number >= 1"),
        ({"confidence": 0.2}, "`confidence` must be within"),
        ({"sensitive": {"sex": SEX[:9]}}, "has 9"),
    ],
)
def test_what_cannot_be_reported_is_refused(change: dict[str, Any], says: str) -> None:
    arguments = {**GOOD, **change}
    y, pred, sensitive = (arguments.pop(name) for name in GOOD)
    with pytest.raises(InvalidInputError, match=says):
        fairness_report(y, pred, sensitive, **arguments)


def test_booleans_and_columns_are_labels_too() -> None:
    report = fairness_report(Y.astype(bool), PRED[:, None], SEX)
    assert report.macro == fairness_report(Y, PRED, SEX).macro
