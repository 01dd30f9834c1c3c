"""Agreement, repetition and order of judgements, by hand-worked examples."""

import math

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback import Judgement, krippendorff_alpha, quality_of, weights_by_annotator

_ = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", the example with three coders.
TEXTBOOK = [
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]


@pytest.mark.parametrize(
    ("level", "value"), [("nominal", 0.691), ("ordinal", 0.807), ("interval", 0.811)]
)
def test_alpha_has_the_textbook_values(level: str, value: float) -> None:
    assert krippendorff_alpha(TEXTBOOK, level) == pytest.approx(value, abs=5e-4)


def test_alpha_of_perfect_and_of_systematic_disagreement() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]], "interval") == 1
    assert krippendorff_alpha([[1, 2, 1, 2], [2, 1, 2, 1]]) < -0.5
    assert krippendorff_alpha([[1, 2, 4], [1, 2, 4]], "ratio") == 1


def test_where_nothing_can_be_said_alpha_is_nan() -> None:
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert math.isnan(krippendorff_alpha([[1, _], [_, 2]]))


def test_alpha_refuses_what_is_no_table() -> None:
    with pytest.raises(InvalidInputError, match=r"\[annotators, units\]"):
        krippendorff_alpha([1, 2])
    with pytest.raises(InvalidInputError, match="'mood'"):
        krippendorff_alpha([[1], [2]], "mood")
    with pytest.raises(InvalidInputError, match="ratio"):
        krippendorff_alpha([[-1.0, 2], [1, 2]], "ratio")


def say(left: int, right: int, answer: float, who: str = "ada", seconds: float = 6) -> Judgement:
    return Judgement(
        "comparison", (left, right), (answer, 1 - answer), annotator=who, seconds=seconds
    )


def test_repeated_and_flipped_pairs_are_told_apart() -> None:
    asked = [say(0, 1, 1), say(0, 1, 1), say(1, 0, 1), say(1, 0, 0), say(2, 3, 0)]
    found = quality_of(asked)
    assert found.judgements == 5
    assert found.minutes == pytest.approx(0.5)
    assert found.redundancy == 0.5  # of the pairs {0, 1} and {2, 3}
    assert found.repeated == pytest.approx(2 / 3)  # the second and the fourth time
    assert found.flipped == 0.5
    assert found.left == pytest.approx(3 / 5)


def test_a_circle_is_found_and_an_order_is_none() -> None:
    circle = [say(0, 1, 1), say(1, 2, 1), say(2, 0, 1)]
    order = [say(3, 4, 1), say(4, 5, 1), say(3, 5, 1)]
    assert quality_of(circle).intransitive == 1
    assert quality_of(order).intransitive == 0
    assert quality_of([*circle, *order]).intransitive == 0.5
    assert math.isnan(quality_of(order[:2]).intransitive)


def test_coins_go_round_in_a_quarter_of_the_triples() -> None:
    rng = np.random.default_rng(0)
    coins = [say(i, j, float(rng.random() < 0.5)) for i in range(25) for j in range(i)]
    assert quality_of(coins).intransitive == pytest.approx(0.25, abs=0.03)


def test_agreement_is_over_annotators() -> None:
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)]
    ada = [say(i, j, float(i < j), "ada") for i, j in pairs]
    same = [say(j, i, float(j < i), "ben") for i, j in pairs]  # shown the other way round
    contrary = [say(i, j, float(i > j), "ben") for i, j in pairs]
    assert quality_of([*ada, *same]).alpha == 1 or math.isnan(quality_of([*ada, *same]).alpha)
    assert quality_of([*ada, *contrary]).alpha < 0
    mixed = [say(0, 4, 0, who) for who in ("ada", "ben")]
    assert quality_of([*ada, *same, *mixed]).alpha == 1


def test_labels_of_a_model_and_skips_are_not_people_s_answers() -> None:
    label = Judgement.preferring(0, 1, role="model", annotator="reward model")
    skipped = Judgement("skip", (0, 1), annotator="ada")
    found = quality_of([label, skipped])
    assert found.judgements == 1
    assert found.reliability == {}
    assert math.isnan(found.left)
    assert quality_of([]).judgements == 0


def test_answers_count_by_reliability_where_there_are_several_annotators() -> None:
    rng = np.random.default_rng(1)
    honest = [
        say(i, j, float(i < j), w) for w in ("ada", "ben") for i in range(8) for j in range(i)
    ]
    coin = [say(i, j, float(rng.random() < 0.5), "coin") for i in range(8) for j in range(i)]
    weights = weights_by_annotator([*honest, *coin])
    assert weights["ada"] == weights["ben"] == 1
    assert weights["coin"] < 0.5
    assert weights_by_annotator(coin) == {"coin": 1.0}  # nobody to compare with
