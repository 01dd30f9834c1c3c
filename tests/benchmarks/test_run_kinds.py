"""Runs of other kinds: what is trained, whose split it is in, and what is printed of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import training_run
from benchmarks.kinds.data import SPLITS as STUDIES
from benchmarks.recorded.sources import SOURCES
from benchmarks.recorded.tasks import TABLES
from benchmarks.runs import kept, kind_report
from benchmarks.runs.kept import Outcome, Run
from benchmarks.runs.kind_networks import NETWORKS
from benchmarks.runs.kind_report import PLAYS
from benchmarks.runs.kinds import KINDS, SPLITS, problem, specs, tasks

RECORDED = json.loads((TABLES / "split.json").read_text())
SAME = ("default", "default, fewer epochs")
SMALL = replace(specs()["fine_tuning"][0], rows=40, epochs=2)


def test_what_is_test_elsewhere_is_test_here() -> None:
    held_out = {*STUDIES["test"], *RECORDED["test"]}
    assert not held_out & {*SPLITS["validation"]}
    assert not {*SPLITS["validation"]} & {*SPLITS["test"]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_tasks_of_both_splits(kind: str) -> None:
    assert all(tasks(kind, split, files=False) for split in ("validation", "test"))
    every = specs()[kind]
    assert len({spec.name for spec in every}) == len(every)
    assert {spec.family for spec in every} <= {*SPLITS["validation"], *SPLITS["test"]}
    assert all(SOURCES[s.source].file is None for s in tasks(kind, "test", files=False))


def test_networks_take_the_data_of_their_tasks() -> None:
    played = {s.network: s for k in KINDS for s in tasks(k, "validation", files=False)}
    assert played.keys() == NETWORKS.keys()
    for spec in played.values():
        posed = problem(spec)
        trainer = posed.trainer(1e-3, 0)
        assert trainer.train(1)["loss"] < 10
        assert trainer.steps_per_epoch * spec.epochs == posed.steps


def test_fine_tuning_begins_with_what_another_task_taught() -> None:
    posed, fresh = problem(SMALL), problem(replace(SMALL, pretrained=False))
    begun = [each.scores(each.trainer(1e-3, 0))[0] for each in (posed, fresh)]
    assert begun[0] < 0.8 * begun[1]
    assert len(posed.data.y_train) == 40


@pytest.mark.parametrize("name", PLAYS)
def test_every_method_plays_and_repeats_itself(name: str) -> None:
    first, again = (PLAYS[name](problem(SMALL), 3) for _ in range(2))
    assert first == again
    assert 0 <= first.accuracy <= 1
    assert np.isfinite(first.loss)


def test_held_out_rows_are_neither_trained_on_nor_validated_on() -> None:
    posed = problem(SMALL)
    seen = {row.tobytes() for row in (*posed.data.x_train, *posed.validation[0])}
    rest = posed.data.x_val[len(posed.validation[0]) :]
    assert len(rest) > 256
    assert not any(row.tobytes() in seen for row in rest)


def test_the_table_is_paired_by_task() -> None:
    ours, theirs = (np.array([Outcome(x, 0.5, 1)]) for x in (1.0, 1.5))
    better = np.array([Outcome(1.25, 0.5, 0)])
    table = kind_report.table_of(
        "early", [{"default": ours, "cosine": theirs}, {"default": ours, "cosine": better}]
    )
    assert list(table.columns[2].cells) == ["", "0.375 ± 0.125"]
    assert list(table.columns[4].cells) == ["1.0", "0.5"]


def test_a_table_of_tasks_is_paired_by_seed() -> None:
    ours, theirs = (np.array([Outcome(x, 0.5, 1) for x in xs]) for xs in ((1.0, 2.0), (1.5, 3.5)))
    table = kind_report.table_of_tasks([SMALL], [{"cosine": theirs, "default": ours}])
    assert [list(column.cells) for column in table.columns] == [
        [SMALL.name],
        ["1.500 ± 0.500"],
        ["1.0"],
        ["1.000 ± 0.500"],
    ]


def test_a_shorter_run_has_fewer_epochs_of_the_same_rows() -> None:
    posed = problem(replace(SMALL, epochs=12))
    assert posed.fewer().steps * 12 == posed.steps * 5
    assert posed.fewer().data is posed.data
    assert problem(replace(SMALL, epochs=1)).fewer().spec.epochs == 1


@pytest.mark.parametrize("task", [("fine_tuning", 0), ("fine_tuning", 1), ("small_batch", 0)])
def test_more_epochs_are_not_worse_than_fewer(task: tuple[str, int]) -> None:
    # All on some 100 rows, which 12 epochs are enough to memorise: the last state of the second
    # is worse by .23 than after 5.
    kind, number = task
    posed = problem(replace(specs()[kind][number], epochs=12))
    play = {name: [PLAYS[name](posed, seed).loss for seed in range(3)] for name in SAME}
    assert np.mean(play["default"]) < np.mean(play["default, fewer epochs"]) + 0.01


def test_very_short_runs_are_not_worse_than_the_default_rate() -> None:
    posed = [problem(spec) for spec in tasks("early", "validation", files=False)]
    behind = [PLAYS["default"](p, 0).loss - PLAYS["constant"](p, 0).loss for p in posed]
    assert max(behind) < 0.02
    assert np.mean(behind) < -0.1


def test_the_command_plays_a_kind_and_writes_it_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    words = ["--kind", "early", "--tasks", "2", "--seeds", "1", "--processes", "1"]
    words += ["--keep", str(tmp_path / "runs.jsonl"), "--methods", "constant", "default"]
    words += ["--write", str(page)]
    threads = torch.get_num_threads()
    assert training_run.main(words) == 0
    torch.set_num_threads(threads)
    assert "early: held-out loss" in capsys.readouterr().out
    assert f"| {tasks('early', 'validation', files=False)[1].name} |" in page.read_text()
    assert "<!-- begin training_run-kinds-validation-early -->" in page.read_text()
    assert "--processes 1 --methods constant default" in page.read_text()


def test_a_command_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.jsonl"
    words = ["--kind", "early", "--tasks", "1", "--processes", "1", "--keep", str(file)]
    task = tasks("early", "validation", files=False)[0].name
    kept.add(file, Run(task, "default", 0), Outcome(7.0, 0.25, 3))
    with file.open("a") as lines:
        lines.write('\n{"run": ["cut sho')
    training_run.main([*words, "--seeds", "2", "--methods", "default"])
    played = kept.read(file)
    assert list(played) == [Run(task, "default", 0), Run(task, "default", 1)]
    assert played[Run(task, "default", 0)] == Outcome(7.0, 0.25, 3)
    training_run.main([*words, "--seeds", "1", "--methods", "default"])
    assert "7.000 ± nan" in capsys.readouterr().out
    assert kept.read(file) == played


def test_of_no_file_nothing_is_kept(tmp_path: Path) -> None:
    kept.add(None, Run("a", "default", 0), Outcome(1.0, 0.5, 0))
    assert kept.read(None) == kept.read(tmp_path / "runs.jsonl") == {}


@pytest.mark.parametrize(
    "words",
    [
        ["--kind", "early", "--methods", "Prodigy"],
        ["--kind", "early", "--split", "train"],
        ["--methods", "TPE, 10 runs"],
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        training_run.main(words)
    assert "but got" in capsys.readouterr().err
