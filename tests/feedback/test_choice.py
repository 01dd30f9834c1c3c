"""Bradley-Terry and annotators, beside choix and beside what is known exactly."""

import math

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback import bradley_terry, fit_annotators


def answers(utilities: np.ndarray, n: int, seed: int, scale: float = 1.0) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    pairs = [tuple(map(int, rng.choice(len(utilities), 2, replace=False))) for _ in range(n)]
    return [
        (i, j)
        if rng.random() < 1 / (1 + math.exp(-scale * (utilities[i] - utilities[j])))
        else (j, i)
        for i, j in pairs
    ]


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_choix_and_explains_the_wins(seed: int) -> None:
    choix = pytest.importorskip("choix")
    true = np.random.default_rng(seed).normal(size=12)
    pairs = answers(true, 150, seed)
    found = bradley_terry(12, pairs, alpha=0.1)
    assert np.abs(found - choix.opt_pairwise(12, pairs, alpha=0.1)).max() < 1e-3  # 0.02 asked
    assert found.mean() == pytest.approx(0, abs=1e-9)
    wins, expected = np.zeros(12), np.zeros(12)
    for i, j in pairs:
        p = 1 / (1 + math.exp(found[j] - found[i]))
        wins[i] += 1
        expected[i] += p
        expected[j] += 1 - p
    assert np.abs(wins - expected).max() < 0.5
    assert np.corrcoef(found, true)[0, 1] > 0.9


def test_two_items_have_the_exact_solution() -> None:
    # Without a penalty the utilities' difference is the log odds: 3 to 1.
    found = bradley_terry(2, [(0, 1)] * 3 + [(1, 0)], alpha=1e-9)
    assert found[0] - found[1] == pytest.approx(math.log(3), abs=1e-6)


def test_undefeated_uncompared_and_cyclic_items_are_finite() -> None:
    found = bradley_terry(5, [(0, 1), (1, 2), (2, 0), (0, 3), (0, 3)])
    assert np.isfinite(found).all()
    assert found[4] == pytest.approx(0, abs=1e-9)
    assert found[3] == found.min()
    cycle = bradley_terry(3, [(0, 1), (1, 2), (2, 0)])
    assert cycle == pytest.approx(np.zeros(3), abs=1e-9)
    assert bradley_terry(3, []) == pytest.approx(np.zeros(3))


def test_a_tie_is_both_ways_with_half_the_weight() -> None:
    tied = bradley_terry(2, [(0, 1), (1, 0)], weights=[0.5, 0.5])
    assert tied == pytest.approx(np.zeros(2), abs=1e-9)
    twice = bradley_terry(2, [(0, 1)], weights=[2.0])
    assert twice == pytest.approx(bradley_terry(2, [(0, 1), (0, 1)]))


@pytest.mark.parametrize(
    ("items", "pairs", "options", "said"),
    [
        (2, [(0, 2)], {}, r"range\(2\), but got \(0, 2\)"),
        (2, [(1, 1)], {}, r"two different items .* got \(1, 1\)"),
        (2, [(0, 1)], {"alpha": 0.0}, "alpha > 0 must hold"),
        (2, [(0, 1)], {"weights": [1.0, 2.0]}, "1 numbers of at least 0"),
        (2, [(0, 1)], {"weights": [-1.0]}, "at least 0"),
    ],
)
def test_what_is_no_comparison_is_refused(
    items: int, pairs: list[tuple[int, int]], options: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        bradley_terry(items, pairs, **options)


@pytest.mark.parametrize("seed", range(3))
def test_reliability_orders_honest_coin_flipping_and_inverted_annotators(seed: int) -> None:
    true = np.random.default_rng(seed).normal(size=20) * 1.5
    scales = {"ada": 1.0, "ben": 1.0, "coin": 0.0, "contrary": -1.0}
    triples = [
        (who, *pair)
        for n, (who, scale) in enumerate(scales.items())
        for pair in answers(true, 100, 10 * seed + n, scale)
    ]
    found = fit_annotators(20, triples)
    trust = found.reliability
    assert min(trust["ada"], trust["ben"]) > 0.5 > abs(trust["coin"]) > -0.5 > trust["contrary"]
    pooled = bradley_terry(20, [pair for _, *pair in triples])
    weighted = np.corrcoef(found.utilities, true)[0, 1]
    assert weighted > 0.88
    assert weighted > np.corrcoef(pooled, true)[0, 1]


def test_a_single_annotator_is_taken_at_their_word() -> None:
    found = fit_annotators(3, [("ada", 0, 1), ("ada", 1, 2), ("ada", 0, 2)])
    assert found.reliability["ada"] > 0.5
    assert list(np.argsort(-found.utilities)) == [0, 1, 2]
    assert fit_annotators(2, []).reliability == {}
