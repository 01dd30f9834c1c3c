"""The prediction of a constraint's cost after a move."""

import math

import pytest

from rlhf_tune.run.drift import p_safe


def test_without_experience_no_change_is_expected():
    assert p_safe(0.0, []) == pytest.approx(0.5)
    assert 0.5 < p_safe(-0.02, []) < p_safe(-0.2, []) < 1
    assert p_safe(0.02, []) == pytest.approx(1 - p_safe(-0.02, []))


def test_a_move_that_raised_the_cost_is_less_safe_and_one_that_lowered_it_safer():
    assert p_safe(-0.02, [0.05, 0.05]) < 0.5 < p_safe(-0.02, []) < p_safe(-0.02, [-0.05, -0.05])


def test_changes_of_both_signs_make_it_less_certain():
    assert p_safe(-0.1, [0.3, -0.3]) < p_safe(-0.1, [])


@pytest.mark.parametrize(("cost", "changes"), [(math.inf, []), (math.inf, [0.1])])
def test_what_cannot_be_trusted_is_not_safe(cost, changes):
    assert p_safe(cost, changes) == 0


def test_a_change_that_could_not_be_measured_says_nothing():
    assert p_safe(-0.1, [math.inf, -math.inf, math.nan]) == p_safe(-0.1, [])
