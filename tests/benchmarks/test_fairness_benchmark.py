"""The benchmark of fairness: its tables, its frontiers, its verdict."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fairlearn")
pytest.importorskip("torch")

from benchmarks import fairness
from benchmarks.fairness import Found
from examples import credit
from examples.credit import Point


def test_a_frontier_is_straight_between_points_that_no_other_beats() -> None:
    points = [Point("a", 0.8, 0.2), Point("b", 0.7, 0.1), Point("worse", 0.6, 0.15)]
    assert credit.at_gap(points, 0.15) == pytest.approx(0.75)
    assert credit.at_gap(points, 0.3) == 0.8
    assert credit.at_gap(points, 0.0) == 0.7


def test_ahead_is_measured_at_equal_gaps() -> None:
    ours = [Point("weight 0", 0.8, 0.2), Point("weight 1", 0.7, 0.1)]
    theirs = [
        Point("ExponentiatedGradient 1", 0.74, 0.15),
        Point("ExponentiatedGradient 2", 0, 0.9),
    ]
    assert Found([*ours, *theirs], {}).ahead == pytest.approx(0.01)  # the last is out of our gaps
    behind = [Point("ExponentiatedGradient 1", 0.79, 0.15)]
    assert Found([*ours, *behind], {}).ahead == pytest.approx(-0.04)


def test_drawn_people_have_a_gap_that_the_weight_closes() -> None:
    points = list(credit.fixed(credit.drawn(3000), 0, 300))
    assert points[0].gap > 0.25
    assert min(point.gap for point in points) < points[0].gap - 0.1
    assert points[0].accuracy > 0.65


def test_the_table_counts_certificates_and_whether_they_held() -> None:
    points = [Point("reach=True, 0.1", 0.8, gap) for gap in (0.05, 0.12, 0.3)]
    kept = (True, True, False)
    found = [Found([p], {0.1: good}) for p, good in zip(points, kept, strict=True)]
    (row,) = zip(
        *(list(column.cells) for column in fairness.table("t", found).columns), strict=True
    )
    assert row[0] == "reach=True, 0.1"
    assert row[3:] == ("2 of 3", "1 of 2")


def test_the_command_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit, "WEIGHTS", (0.0, 1.0))
    monkeypatch.setattr(credit, "BOUNDS", (0.05,))
    page = tmp_path / "page.md"
    words = ["--seeds", "2", "--people", "4000", "--steps", "30", "--write", str(page)]
    assert fairness.main(words) == 0
    text = page.read_text()
    assert "<!-- begin fairness-drawn -->" in text
    assert "ahead of ExponentiatedGradient by" in text
    assert "| weight 1 |" in text


def test_a_table_s_people_are_standardised(tmp_path: Path) -> None:
    file = tmp_path / "german_credit.csv"
    lines = [f"{i % 2},{'mf'[i % 3 == 0]},{i},{'ab'[i % 2]}" for i in range(60)]
    file.write_text("\n".join(["class-label,sex,age,kind", *lines]))
    people = fairness.people_of("german_credit", tmp_path, 50)
    assert people.x.shape == (50, 5)  # age, two sexes, two kinds
    assert np.abs(people.x).max() <= 5
    assert set(people.group) == {"m", "f"}
