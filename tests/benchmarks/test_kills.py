"""Runs that are killed at random moments lose nothing and end alike."""

import pytest

from benchmarks import kills


@pytest.mark.slow
@pytest.mark.parametrize("framework", [pytest.param("keras", marks=pytest.mark.keras), "torch"])
def test_nothing_is_lost_and_the_ends_are_equal(framework: str) -> None:
    pytest.importorskip(framework)
    counted = kills.tally(framework, 10, seed=1)
    assert counted.kills == 10
    assert counted.ended >= 1
    assert (counted.lost, counted.unequal) == (0, 0)
