"""The remedy of group fairness: which weights there are, what samples pay, how weights move."""

import re
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import GroupFairness, Measurement
from rlhf_tune.safety.fair_weight import Contrast
from rlhf_tune.safety.remedy import columns_of

RNG = np.random.default_rng(5)
N = 3000
SEX = RNG.choice(["f", "m"], N, p=[0.3, 0.7])
RACE = RNG.choice(["a", "b", "c"], N)
Y = (RNG.random(N) < 0.3 + 0.2 * (SEX == "m")).astype(int)
X = RNG.normal(size=(N, 2))


def fairness(sensitive: Any, **arguments: Any) -> GroupFairness:
    return GroupFairness(X, Y, sensitive, **{"at_most": 0.3, **arguments})


@pytest.mark.parametrize(
    ("sensitive", "arguments", "names"),
    [
        (SEX, {}, ["fair_weight"]),
        ({"sex": SEX}, {"name": "by_sex"}, ["fair_weight[by_sex]"]),
        (SEX, {"metric": "equal_opportunity"}, ["fair_weight[true_positive_rate]"]),
        (
            SEX,
            {"metric": "equalized_odds"},
            ["fair_weight[true_positive_rate]", "fair_weight[false_positive_rate]"],
        ),
        ({"race": RACE}, {}, [f"fair_weight[race={race}]" for race in "abc"]),
        (
            {"sex": SEX, "race": RACE},
            {},
            [
                "fair_weight[sex]",
                *(f"fair_weight[race={race}]" for race in "abc"),
                *(f"fair_weight[sex x race={s}, {r}]" for s in "fm" for r in "abc"),
            ],
        ),
    ],
)
def test_each_contrast_has_a_weight(sensitive: Any, arguments: Any, names: list[str]) -> None:
    remedy = fairness(sensitive, **arguments).remedy()
    assert list(remedy.names) == names
    assert set(remedy.first.values()) == {0.0}


def test_the_weight_of_two_groups_is_above_0_against_the_gap_of_the_labels() -> None:
    remedy = fairness(SEX).remedy()
    (column,) = columns_of([remedy], SEX, N)
    assert column is not None
    assert (column[SEX == "m", 0] > 0).all()
    assert (column[SEX == "f", 0] < 0).all()


@pytest.mark.parametrize("rate", ["selection_rate", "true_positive_rate"])
def test_what_selected_samples_pay_is_the_gap_without_bias(rate: str) -> None:
    """Whatever the batch: the mean over batches of five is the gap, times P(m) P(f)."""
    metric = {"selection_rate": "demographic_parity", "true_positive_rate": "equal_opportunity"}
    remedy = fairness(SEX, metric=metric[rate]).remedy()
    (column,) = columns_of([remedy], SEX, N)
    assert column is not None
    selected = RNG.random(N) < 0.2 + 0.4 * (SEX == "m")
    rows = np.ones(N, dtype=bool) if rate == "selection_rate" else Y == 1
    paid = column[:, 0] * selected * rows
    gaps = selected[rows & (SEX == "m")].mean() - selected[rows & (SEX == "f")].mean()
    share = (SEX[rows] == "m").mean()
    scale = share * (1 - share) * rows.mean()
    order = RNG.permutation(N).reshape(-1, 5)
    assert np.mean([paid[batch].mean() for batch in order]) == pytest.approx(gaps * scale)


def test_a_sample_of_the_rarer_side_pays_about_one() -> None:
    contrast = Contrast("w", "sex", "f", ("m",), "selection_rate", 0.05, ())
    assert contrast.column(np.array(["f", "m", "other"])).tolist() == pytest.approx(
        [0.95, -0.05, 0]
    )


def measured(rates: dict[str, float], *, bound: float = 0.1, half: float = 0.02) -> Measurement:
    value = max(rates.values()) - min(rates.values())
    details = {f"selection_rate[{name}]": rate for name, rate in rates.items()}
    high = value + half
    return Measurement("dp", value, bound, (0.0, high), 100, high - bound, details=details)


def test_a_weight_rises_against_the_gap_and_falls_when_it_is_inside() -> None:
    remedy = fairness({"sex": SEX}).remedy()
    wide = measured({"sex=m": 0.4, "sex=f": 0.3})
    (up,) = remedy.update({"fair_weight": 0.0}, wide).values()
    # Half of the gap beyond half of what the bound less 1.75 half-widths allows.
    assert up == pytest.approx(remedy.gain * (0.05 - 0.0325))
    inside = measured({"sex=m": 0.31, "sex=f": 0.3})
    (down,) = remedy.update({"fair_weight": 0.5}, inside).values()
    assert down == pytest.approx(0.5 - remedy.gain * (0.0325 - 0.005))
    assert remedy.update({"fair_weight": 0.01}, inside) == {"fair_weight": 0.0}


def test_a_weight_takes_the_other_sign_when_the_gap_does() -> None:
    remedy = fairness({"sex": SEX}).remedy()
    reverse = measured({"sex=m": 0.2, "sex=f": 0.4})
    weights = {"fair_weight": 0.1}
    for _ in range(3):
        weights = remedy.update(weights, reverse)
    assert weights["fair_weight"] < 0
    for _ in range(50):
        weights = remedy.update(weights, reverse)
    assert weights["fair_weight"] == remedy.within[0]
    assert remedy.exhausted(weights)


def test_of_three_groups_those_at_the_ends_are_moved() -> None:
    remedy = fairness({"race": RACE}).remedy()
    wide = measured({"race=a": 0.5, "race=b": 0.35, "race=c": 0.2})
    moved = remedy.update(remedy.first, wide)
    assert moved["fair_weight[race=a]"] == -moved["fair_weight[race=c]"] > 0
    assert moved["fair_weight[race=b]"] == 0


def test_the_weight_goes_to_the_multiplier_of_a_linear_problem() -> None:
    """Rates that fall with the weight: it settles where the gap is what the bound allows."""
    remedy, weights = fairness({"sex": SEX}).remedy(), {"fair_weight": 0.0}
    for _ in range(60):
        gap_now = 0.25 - 0.1 * weights["fair_weight"]
        weights = remedy.update(weights, measured({"sex=m": 0.3 + gap_now, "sex=f": 0.3}))
    assert weights["fair_weight"] == pytest.approx((0.25 - 0.065) / 0.1, abs=0.02)


def test_a_rate_that_is_not_known_moves_nothing() -> None:
    remedy = fairness({"sex": SEX}).remedy()
    assert remedy.update({"fair_weight": 0.3}, measured({"other=m": 0.4})) == {"fair_weight": 0.3}


def test_groups_are_asked_for_and_checked() -> None:
    remedy = fairness({"sex": SEX, "race": RACE}).remedy()
    with pytest.raises(InvalidInputError, match="`groups` must be given, the group of each train"):
        columns_of([remedy], None, N)
    with pytest.raises(InvalidInputError, match=r"\['race', 'sex'\], but has \['sex'\]"):
        columns_of([remedy], {"sex": SEX}, N)
    with pytest.raises(InvalidInputError, match=re.escape("`groups['race']` must have a group")):
        columns_of([remedy], {"sex": SEX, "race": RACE[:9]}, N)
    with pytest.raises(InvalidInputError, match="but there is none"):
        columns_of([], SEX, N)


def test_training_samples_of_groups_that_the_constraint_left_out_pay_nothing() -> None:
    (column,) = columns_of([fairness(SEX).remedy()], np.array(["f", "m", "other"]), 3)
    assert column is not None
    assert column[2, 0] == 0
