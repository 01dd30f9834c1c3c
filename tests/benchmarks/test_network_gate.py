"""The gate of the Q-networks: who is behind expected improvement, and by how much."""

import numpy as np
import pytest

from benchmarks.network import EI, MARGIN, behind, gains, summary
from benchmarks.studies.studies import Runs, checkpoints

POINTS = checkpoints(10)


def runs(regret: float, retrained: float | None) -> Runs:
    """Of 3 problems, 2 studies each; None where recommendations are not retrained."""
    columns = 0 if retrained is None else len(POINTS)
    return Runs(np.full((3, 2, 10), regret), np.full((3, 2, columns), retrained or 0.0))


def test_a_gain_is_how_much_less_regret_than_expected_improvement() -> None:
    results = {EI: runs(0.5, 0.4), "a": runs(0.3, 0.6)}
    np.testing.assert_allclose(gains(results, "regret", 10), np.full((1, 3), 0.2))
    np.testing.assert_allclose(gains(results, "retrained", POINTS[-1]), np.full((1, 3), -0.2))


@pytest.mark.parametrize(
    ("regret", "late"), [(0.5, 0), (0.5 + MARGIN / 2, 0), (0.5 + 2 * MARGIN, len(POINTS))]
)
def test_who_is_behind_by_more_than_the_margin_is_named(regret: float, late: int) -> None:
    found = behind({"seven": {EI: runs(0.5, 0.4), "a": runs(regret, 0.4)}})
    assert len(found) == late
    assert all(one.startswith("seven a regret ") for one in found)


def test_recommendations_under_constraints_are_not_retrained() -> None:
    played = {"costs": {EI: runs(0.5, None), "a": runs(0.5, None)}}
    assert behind(played) == []
    assert summary(played, "regret").row_count == 1
    assert summary(played, "retrained").row_count == 0
