"""The gate's error rate, by simulation, and the tables of its docs."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rlhf_tune.gate import power
from rlhf_tune.gate.decision import measure
from rlhf_tune.gate.report import GateReport
from rlhf_tune.safety import constraint
from rlhf_tune.safety.intervals import difference_interval, proportion_interval

DRAWS = 2000
DOCS = Path(__file__).parents[2] / "docs" / "gate.md"


@cache
def passes(successes: int, n: int, floor: float) -> bool:
    seen = np.arange(n) < successes
    return (
        GateReport(measure(None, constraint("c", lambda _: seen, at_least=floor))).verdict == "pass"
    )


@pytest.mark.parametrize("n", [5, 10, 30, 100, 300, 1000, 3000, 10_000])
def test_a_model_below_the_floor_passes_at_most_one_time_in_twenty(n: int) -> None:
    counts = np.random.default_rng(n).binomial(n, 0.48, DRAWS)
    assert np.mean([passes(int(count), n, 0.5) for count in counts]) <= 0.05


@pytest.mark.parametrize("floor", power.FLOORS)
def test_at_the_floor_itself_too(floor: float) -> None:
    chances = [power.chance_of_a_pass(floor, n, floor) for n in range(1, 3000)]
    assert 0.04 < max(chances) <= 0.05


@pytest.mark.parametrize("n", [20, 100, 500, 2000])
@pytest.mark.parametrize("lost", [0.06, 0.2])
def test_a_model_that_falls_behind_by_the_margin_passes_at_most_one_time_in_twenty(
    n: int, lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rlhf_tune.safety.intervals.proportion_interval", cache(proportion_interval)
    )
    margin = 0.05
    shares = [lost - margin, lost, 1 - 2 * lost + margin]  # gained, lost, neither
    draws = np.random.default_rng(n).multinomial(n, shares, DRAWS)
    lows = [difference_interval(int(g), int(b), n, 0.95)[0] for g, b, _ in draws]
    assert np.mean(np.asarray(lows) >= -margin) <= 0.05


@pytest.mark.parametrize("floor", power.FLOORS)
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_the_table_agrees_with_the_bound_that_decides(n: int, floor: float) -> None:
    least = power.least_successes(n, floor)
    assert (
        proportion_interval(least, n, 0.95)[0] >= floor > proportion_interval(least - 1, n, 0.95)[0]
    )


def test_a_model_above_the_floor_passes_as_often_as_the_table_says() -> None:
    counts = np.random.default_rng(0).binomial(500, 0.8, DRAWS)
    seen = np.mean([passes(int(count), 500, 0.75) for count in counts])
    assert seen == pytest.approx(power.chance_of_a_pass(0.8, 500, 0.75), abs=0.04)


def test_the_tables_of_the_docs_are_those_of_the_command() -> None:
    text = DOCS.read_text("utf-8")
    assert power.observed() in text
    assert power.power() in text
