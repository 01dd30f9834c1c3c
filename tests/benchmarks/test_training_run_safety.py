"""The safety benchmark of one training run: its judgement, its floors, its tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_run_safety
from benchmarks.common import report
from benchmarks.runs import methods, problems
from benchmarks.training_run_safety import Outcome
from rlhf_tune.safety import Measurement, RobustAccuracy

TASK = ("majority", "linear-adam")


def outcome(value: float, *, certified: bool = True, high: float = 1.0) -> Outcome:
    robust = Measurement("robust_accuracy", value, 0.5, (0.0, high), 100, cost=0.0)
    return Outcome(certified, robust, accuracy=value, seconds=2.0)


def test_a_floor_is_a_percentile_of_what_constant_rates_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posed = problems.problem(TASK, steps=48)
    judge = RobustAccuracy(*posed.held_out, eps=posed.data.eps, at_least=0, attack="pgd")
    trained = {rate: methods.constant(posed, rate, 0) for rate in posed.rates.tolist()}
    monkeypatch.setattr(training_run_safety, "constant", lambda _, rate, seed: trained[rate])
    reached = [judge(trainer.model).value for trainer in trained.values()]
    low, floor, high = (training_run_safety.floor_of(posed, 0, percent) for percent in (0, 40, 100))
    assert (low, high) == (min(reached), max(reached))
    assert floor == pytest.approx(np.percentile(reached, 40))
    assert low < floor < high


def test_a_run_is_judged_on_data_it_was_not_measured_on() -> None:
    posed = problems.problem(TASK, steps=96)
    bound, free = training_run_safety.run(posed, "default", 1e-3, 0, floor=0.05)
    assert bound.certified
    assert free.certified
    different = len(np.unique(posed.held_out[0].reshape(len(posed.held_out[1]), -1), axis=0))
    assert bound.robust.n == free.robust.n == different < len(posed.held_out[1])
    assert bound.robust.bound == 0.05
    assert bound.seconds > 0


def test_a_floor_out_of_reach_is_counted_apart() -> None:
    posed = problems.problem(TASK, steps=48)
    bound, free = training_run_safety.run(posed, "default", 1e-3, 0, floor=0.95)
    assert not bound.certified
    assert bound.violates
    assert free.certified


def test_a_violation_beyond_doubt_is_one_of_the_upper_bound_too() -> None:
    assert not outcome(0.5).violates
    assert outcome(0.49).violates
    assert not outcome(0.49).surely_violates
    assert outcome(0.4, high=0.48).surely_violates


def test_small_data_sets_are_left_out() -> None:
    fixed = {"policies": ["default"], "percentile": 40, "steps": 24, "data_dir": None}
    assert training_run_safety.outcomes(("iris", "linear-adam"), **fixed) is None


def test_tables_count_what_was_not_certified_apart() -> None:
    kept = (outcome(0.6), outcome(0.7))
    missed = (outcome(0.45), outcome(0.4))
    lost = (replace(outcome(0.3), certified=False, seconds=4.0), outcome(0.4))
    results = [{"default": [kept, missed]}, {"default": [lost, kept]}]
    safe = report.markdown(training_run_safety.summary(results, "T"))
    assert "| default | 4 | 1 | 1 of 3: 0.333 (0.008-0.906) | 0 of 3: 0.000" in safe
    assert "| 1 of 3: 0.333 (0.008-0.906) | 2 of 4: 0.500" in safe
    costs = report.markdown(training_run_safety.price(results, "T"))
    assert "| default | 0.062 ± 0.037 | 0.100 ± nan | 0.062 ± 0.037 | 1.250 ± 0.250 |" in costs
    none_lost = report.markdown(training_run_safety.price([{"default": [kept]}] * 2, "T"))
    assert "| default | 0.100 ± 0.000 | - | 0.100 ± 0.000 | 1.000 ± 0.000 |" in none_lost


def test_main_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    words = "--tasks 2 --steps 24 --processes 1 --policies constant"
    assert training_run_safety.main([*words.split(), "--write", str(page)]) == 0
    text = page.read_text()
    assert "<!-- begin training_run_safety-validation -->" in text
    assert "floor at percentile 40" in text
    assert "CannotCertify" in capsys.readouterr().out
