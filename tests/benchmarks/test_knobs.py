"""The benchmark of remedies: its methods, its judgement, its tables."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import knobs
from benchmarks.common import report
from benchmarks.knobs import FIXED, Outcome

pytest.importorskip("torch")


def small() -> knobs.Task:
    return replace(
        knobs.digits(),
        sizes=(200, 50, 60),
        held_out=40,
        epochs=2,
        floors={0.1: (0.1,)},
        beyond={0.1: 0.8},
    )


def outcome(accuracy: float = 0.9, *, certified: bool = True, robust: float = 0.6) -> Outcome:
    return Outcome(certified, robust, 0.5, accuracy, seconds=2.0, epochs=10.0)


def case(reach: Outcome, fixed: Outcome, **others: Outcome) -> knobs.Case:
    plain = replace(outcome(certified=False), seconds=1.0)
    return {"reach": reach, "plain": plain, **dict.fromkeys(FIXED, fixed), **others}


def test_rows_are_divided_anew_for_each_seed() -> None:
    parts = knobs.digits().divided(0)
    assert [len(y) for _, y in parts] == [800, 200, 400, 397]
    assert len(np.unique(np.concatenate([x for x, _ in parts]), axis=0)) == 1797
    assert not np.array_equal(parts[0][0], knobs.digits().divided(1)[0][0])


def test_methods_differ_in_their_weight_alone() -> None:
    floor = knobs.RobustAccuracy(*small().divided(0)[2], eps=0.1, at_least=0.1)
    moved, stays, plain = (knobs._reach(floor, method) for method in ("reach", 0.5, "plain"))
    assert moved.weights([]) == {"adversarial_weight": 0.25}
    assert stays.weights([]) == {"adversarial_weight": 0.5}
    assert next(iter(stays.remedies.values())).rise == 0
    assert plain.weights([]) == {}
    assert moved.constraints == stays.constraints == plain.constraints


def test_a_run_is_judged_on_rows_that_nothing_was_measured_on() -> None:
    found = knobs.run(small(), 0.5, eps=0.1, floor=0.8, seed=0)
    assert not found.certified
    assert not found.violates  # nothing was promised
    assert found.floor == 0.8
    found = knobs.run(replace(small(), epochs=8), 0.5, eps=0.05, floor=0.1, seed=0)
    assert found.certified
    assert 0.1 < found.robust < found.accuracy <= 1
    assert found.robust * 40 == pytest.approx(round(found.robust * 40))  # of the held-out rows


def test_the_best_fixed_weight_is_of_those_certified() -> None:
    lost, low, high = outcome(0.99, certified=False), outcome(0.8), outcome(0.85)
    found = case(outcome(), lost) | {0.25: low, 0.5: high}
    assert knobs.best_fixed(found) is high
    assert knobs.best_fixed(case(outcome(), lost)) is None


def test_the_tables_and_the_target() -> None:
    violated = outcome(0.9, robust=0.4)
    cases = [
        case(outcome(0.92), outcome(0.9)),
        case(violated, outcome(0.93)),
        case(outcome(certified=False), outcome(0.9)),
    ]
    shown = report.markdown(knobs.table(cases, "T"))
    assert "| reach=True | 2 of 3 | 1 of 2 | 0.000 | 0.910 | 2.000 |" in shown
    assert "| best fixed weight | 3 of 3 | 0 of 3 | 0.100 | 0.910 | 4 runs |" in shown
    assert "| plain | 0 of 3 | 0 of 0 | - | - | 1.000 |" in shown
    said = knobs.verdict(cases)
    assert (
        "in 2 of 3; its clean accuracy was then lower by 0.005 on the mean, 0.030 at most" in said
    )
    assert "within 0.01 in 1 of 2. Where none was, it was in 0 of 0" in said


def test_main_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small()
    monkeypatch.setattr(knobs, "digits", lambda: task)
    monkeypatch.setattr(knobs, "FIXED", (0.5,))
    page = tmp_path / "page.md"
    assert knobs.main(["--seeds", "1", "--write", str(page)]) == 0
    assert "<!-- begin knobs-digits -->" in page.read_text()
    assert re.search(r"0\.8 at eps 0\.1 after [12]\.\d+ of 2 epochs", page.read_text())
    assert "best fixed weight" in capsys.readouterr().out
