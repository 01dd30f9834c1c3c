"""Questions: those that tell most, and how few of them suffice."""

import numpy as np
import pytest

from rlhf_tune.feedback import RewardModel, more_needed, next_pair, sure_answers
from rlhf_tune.feedback.asking import expected_accuracy, information

ITEMS, OUTCOMES = 60, 5
EMPTY = np.zeros((0, OUTCOMES))


def ask(seed: int, questions: int, *, active: bool) -> tuple[RewardModel, np.ndarray, np.ndarray]:
    """A model after so many answers, the outcomes, and their true utilities (deviation 5)."""
    rng = np.random.default_rng(seed)
    outcomes, weights = rng.normal(size=(ITEMS, OUTCOMES)), rng.normal(size=OUTCOMES)
    utilities = outcomes @ (5 * weights / np.linalg.norm(weights))
    asked: list[tuple[int, int]] = []
    answers: list[bool] = []
    model = RewardModel().fit(EMPTY, EMPTY, population=outcomes)
    for _ in range(questions):
        pair = next_pair(model, outcomes, asked, rng, repeats=False) if active else None
        i, j = pair or map(int, rng.choice(ITEMS, 2, replace=False))
        asked.append((i, j))
        answers.append(rng.random() < 1 / (1 + np.exp(utilities[j] - utilities[i])))
        rows = np.array(asked)
        model = RewardModel().fit(
            outcomes[rows[:, 0]], outcomes[rows[:, 1]], answers=answers, population=outcomes
        )
    return model, outcomes, utilities


def pair_accuracy(model: RewardModel, outcomes: np.ndarray, utilities: np.ndarray) -> float:
    i, j = np.triu_indices(ITEMS, 1)
    said = model.predict(outcomes)[0]
    return float(((said[i] > said[j]) == (utilities[i] > utilities[j])).mean())


def test_twenty_chosen_questions_order_sixty_trials_by_five_outcomes() -> None:
    chosen, drawn = (
        np.array([pair_accuracy(*ask(seed, 20, active=active)) for seed in range(12)])
        for active in (True, False)
    )
    print(f"pair accuracy: {chosen.mean():.3f} chosen, {drawn.mean():.3f} drawn")
    assert chosen.mean() >= 0.95
    assert chosen.mean() > drawn.mean() + 0.02


def test_information_is_largest_where_the_mean_is_open_and_the_deviation_large() -> None:
    known = information(np.zeros(3), np.array([0.0, 1.0, 5.0]))
    assert known[0] == pytest.approx(0, abs=1e-9)  # a coin that is known to be one
    assert known[0] < known[1] < known[2] < np.log(2)
    assert information(np.array([5.0]), np.array([1.0]))[0] < known[1]


def test_after_twenty_each_tenth_question_is_an_earlier_one_the_other_way_round() -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.normal(size=(20, 2))
    model = RewardModel().fit(np.zeros((0, 2)), np.zeros((0, 2)), population=outcomes)
    asked: list[tuple[int, int]] = []
    for _ in range(40):
        asked.append(next_pair(model, outcomes, asked, rng))
    assert asked[29][::-1] in asked[:29]
    assert asked[39][::-1] in asked[:39]
    new = asked[:29] + asked[30:39]
    assert len({frozenset(pair) for pair in new}) == 38


def test_sides_are_drawn_and_pairs_end() -> None:
    outcomes = np.array([[0.0], [1.0], [2.0]])
    model = RewardModel().fit(np.zeros((0, 1)), np.zeros((0, 1)), population=outcomes)
    seen = {next_pair(model, outcomes, [], np.random.default_rng(k)) for k in range(20)}
    assert seen == {(0, 2), (2, 0)}
    rng = np.random.default_rng(0)
    assert next_pair(model, outcomes, [(0, 1), (1, 2), (2, 0)], rng) is None
    assert next_pair(model, outcomes, [(0, 1)], rng, labelled=[(1, 2), (2, 0)]) is None


def test_only_sure_pairs_are_labelled_and_those_labels_are_right() -> None:
    model, outcomes, utilities = ask(0, 40, active=True)
    i, j = np.triu_indices(ITEMS, 1)
    labels = sure_answers(model, outcomes[i], outcomes[j])
    sure = ~np.isnan(labels)
    assert 0.2 < sure.mean() < 1
    assert ((labels == 1) == (utilities[i] > utilities[j]))[sure].mean() > 0.95


def test_how_many_more_falls_with_what_is_known() -> None:
    few, many = ask(0, 12, active=True), ask(0, 80, active=True)
    assert expected_accuracy(*few[:2]) < expected_accuracy(*many[:2])
    needed = [more_needed(*few[:2], 12), more_needed(*many[:2], 80, accuracy=0.9)]
    assert needed[0] > 0 == needed[1]
    assert more_needed(*few[:2], 12, accuracy=0.9999999) is None
    true = pair_accuracy(*many)
    assert expected_accuracy(*many[:2]) == pytest.approx(true, abs=0.06)
