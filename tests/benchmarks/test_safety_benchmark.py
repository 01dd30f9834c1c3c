"""The safety benchmark: its judgement, and the calibration of P(safe) on validation tasks."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import safety
from benchmarks.recorded import tasks


@pytest.fixture(scope="module")
def landscapes() -> list[safety.Landscape]:
    """A few validation tasks of different families at both percentiles."""
    chosen = tasks.load("validation")[::12]
    every = [safety.Landscape(task, percentile) for task in chosen for percentile in (40, 80)]
    return [landscape for landscape in every if landscape.meaningful]


@pytest.fixture(scope="module")
def outcomes(landscapes: list[safety.Landscape]) -> list[safety.Outcome]:
    """Two studies of ours on each."""
    return [safety.run(each, "ours", seed, 20) for seed in range(2) for each in landscapes]


def test_predicted_safety_is_calibrated(outcomes: list[safety.Outcome]) -> None:
    """Trials called safe with probability p are so at least about p of the time."""
    p = np.concatenate([outcome.p_safe for outcome in outcomes])
    safe = np.concatenate([outcome.safe for outcome in outcomes])
    for low in (0.5, 0.7, 0.9):
        said = p >= low
        assert said.sum() > 30
        assert safe[said].mean() > p[said].mean() - 0.1
    assert safe[p >= 0.95].mean() > 0.95


def test_ours_takes_less_risk_than_chance(
    landscapes: list[safety.Landscape], outcomes: list[safety.Outcome]
) -> None:
    random = [safety.run(each, "random", 0, 12).unsafe for each in landscapes]
    ours = [(outcome.costs[:12] > 0).sum() for outcome in outcomes[: len(landscapes)]]
    assert np.mean(ours) < 0.5 * np.mean(random)


def test_the_best_feasible_cell_has_no_regret() -> None:
    task = tasks.load("validation")[0]
    landscape = safety.Landscape(task, 40)
    table = np.array(
        [
            landscape.measure(rate, batch).mean(axis=0)
            for rate in task.learning_rates
            for batch in task.batch_sizes
        ]
    )
    feasible = table[:, 1] <= 0
    assert feasible.mean() == pytest.approx(0.6, abs=0.02)
    assert landscape.regret(table[feasible, 0].min()) == pytest.approx(0)
    assert landscape.regret(1.0) == pytest.approx(1)


def test_a_constant_constraint_is_left_out() -> None:
    import dataclasses

    task = tasks.load("validation")[0]
    constant = dataclasses.replace(task, fgsm_accuracy=np.full_like(task.fgsm_accuracy, 0.5))
    assert safety.Landscape(task, 40).meaningful
    assert not safety.Landscape(constant, 40).meaningful


def test_main_prints_and_writes_every_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = "--methods random ours --tasks 2 --seeds 1 --trials 3 --percentiles 40"
    page = tmp_path / "page.md"
    assert safety.main([*arguments.split(), "--processes", "1", "--write", str(page)]) == 0
    printed = capsys.readouterr().out
    written = page.read_text()
    assert "<!-- begin safety-validation -->" in written
    assert written.count("**") == 8
    assert all(word in printed for word in ("regret", "false safe", "family", "nominal", "drift"))
