"""Rewards that count costs: a penalty, and a multiplier that learns."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlhf_tune import rewards
from rlhf_tune.ascent import ascend
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.rewards import Change, Lagrangian


def change(cost: float | None, *, final: bool = False, gain: float = 0.0) -> Change:
    costs = {} if cost is None else {"gap": cost}
    return Change(gain, 0.0, False, 0.1, False, bool(cost and cost > 0), final, costs)


FAIR = SimpleNamespace(name="gap", at_most=0.1)


def test_a_penalty_counts_what_is_missed() -> None:
    term = rewards.penalty(FAIR, 2.0)
    assert term(change(0.05)) == -0.1
    assert term(change(-0.05)) == 0
    assert term(change(None)) == 0
    assert term(change(np.inf)) == -2.0  # an untrusted measurement
    both = rewards.total(rewards.gain, term)
    assert both(change(0.05, gain=0.3)) == pytest.approx(0.2)
    assert rewards.penalty("gap", 2.0)(change(0.05)) == -0.1


def test_a_multiplier_ascends_after_each_episode_by_its_mean() -> None:
    term = Lagrangian(FAIR, gain=1.0)
    assert term(change(0.3)) == 0  # it begins at nought
    assert term(change(0.1, final=True)) == 0
    assert term.multiplier == pytest.approx(0.2)
    assert term(change(0.3)) == pytest.approx(-0.06)
    assert term(change(-0.3)) == pytest.approx(0.06)  # kept with a margin
    assert term(change(-0.9, final=True)) == pytest.approx(0.18)
    assert term.multiplier == 0  # never below
    assert term.history == pytest.approx([0, 0.2, 0])


def test_another_ceiling_than_the_constraint_s_own() -> None:
    term = Lagrangian(FAIR, at_most=0.05, gain=1.0)
    term(change(0.0, final=True))  # at .1, which is .05 too much
    assert term.multiplier == pytest.approx(0.05)


def test_it_goes_to_the_price_of_the_bound() -> None:
    """The best of profit(g) = g - g^2 / 2 under g <= .4: the price is 1 - .4."""
    term = Lagrangian("gap", at_most=0.4, gain=0.1)
    for _ in range(400):
        term.ascend(1 - term.multiplier - 0.4)
    assert term.multiplier == pytest.approx(0.6, abs=1e-3)


def test_steps_of_a_multiplier_are_limited() -> None:
    options: dict[str, Any] = {"gain": 5.0, "rise": 0.2, "fall": 0.05, "within": (0.1, 0.9)}
    assert ascend(0.5, 1.0, **options) == 0.7
    assert ascend(0.5, 0.02, **options) == pytest.approx(0.6)
    assert ascend(0.5, -1.0, **options) == 0.45
    assert ascend(0.8, 1.0, **options) == 0.9
    assert ascend(0.12, -1.0, **options) == 0.1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rewards.penalty(FAIR, -1.0), "`weight >= 0` must hold"),
        (lambda: rewards.penalty(3, 1.0), "a constraint or its name must be given, but got 3"),
        (lambda: Lagrangian(FAIR, gain=0.0), "`gain > 0` must hold"),
        (lambda: Lagrangian(FAIR, start=2.0, most=1.0), "must hold, but got start=2.0"),
        (lambda: Lagrangian(SimpleNamespace(name="r"), 0.1), "no ceiling of its own"),
    ],
)
def test_what_breaks_a_rule_is_refused(make: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        make()
