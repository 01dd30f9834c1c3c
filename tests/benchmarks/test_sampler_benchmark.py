"""The comparison of samplers: its problems, its judgement and its report."""

import dataclasses
from pathlib import Path

import numpy as np
import optuna
import pytest
from rich.table import Table

from benchmarks import epochs, network, sampler
from benchmarks.common import report
from benchmarks.recorded import tasks
from benchmarks.studies import methods, scores, studies
from benchmarks.studies.seven import OTHERS, Seven
from benchmarks.studies.surfaces import Surface
from rlhf_tune.errors import InvalidInputError


@pytest.fixture(scope="module")
def task() -> tasks.Task:
    return tasks.load("validation")[0]


def cell(task: tasks.Task, i: int, j: int) -> dict[str, float]:
    return {"learning_rate": task.learning_rates[i], "batch_size": task.batch_sizes[j]}


def test_a_surface_is_the_recorded_table_at_its_cells(task: tasks.Task) -> None:
    expected = tasks.normalised(task.val_loss[..., -1], task.chance)
    assert Surface(task).values(cell(task, 7, 2)) == pytest.approx(expected[:, 7, 2])
    assert Surface(task).curves(cell(task, 7, 2)).shape == (2, epochs.EPOCHS)


def test_a_shift_moves_the_learning_rate_and_keeps_the_scale(task: tasks.Task) -> None:
    here, there = Surface(task), Surface(task, shift=1.0)
    point = {"learning_rate": 1e-3, "batch_size": 32}
    moved = {"learning_rate": 1e-2, "batch_size": 32}
    assert there.values(moved) == pytest.approx(here.values(point), abs=1e-6)
    lowest = there.values(cell(task, 0, 1))
    assert there.values({"learning_rate": 1e-4, "batch_size": 32}) == pytest.approx(lowest)
    grid = [
        there.values(cell(task, i, j)).mean()
        for i in range(len(task.learning_rates))
        for j in range(len(task.batch_sizes))
    ]
    assert min(grid) == pytest.approx(0)
    assert max(grid) <= 1 + 1e-9


def test_accuracy_is_judged_as_error_between_a_guess_and_the_best(task: tasks.Task) -> None:
    accuracy = task.val_accuracy[..., -1].astype(np.float64)
    i, j = np.unravel_index(accuracy.mean(axis=0).argmax(), accuracy.shape[1:])
    surface = Surface(task, objective="accuracy")
    assert surface.values(cell(task, int(i), int(j))).mean() == pytest.approx(0)
    useless = dataclasses.replace(task, val_accuracy=np.zeros_like(task.val_accuracy))
    useless.val_accuracy[:, 0, 0] = 1
    assert Surface(useless, objective="accuracy").values(cell(task, 5, 2)) == pytest.approx(1)


def test_the_seven_parameters_are_best_together_and_hurt_apart(task: tasks.Task) -> None:
    problem = Seven(Surface(task))
    assert set(problem.space) == {"learning_rate", "batch_size", *OTHERS}
    assert problem.acting_rate(problem.start) == pytest.approx(1e-3)
    slower = problem.start | {"momentum": 0.99, "learning_rate": 1e-4}
    assert 1e-4 < problem.acting_rate(slower) <= 1e-3
    plain = Surface(task).values(problem.start)
    assert (problem.values(problem.start) >= plain).all()
    assert problem.penalty(problem.start | {"dropout": 0.6, "weight_decay": 0.1}) > 0.1
    again = Seven(Surface(task))
    assert again.penalty(problem.start) == problem.penalty(problem.start)


def test_a_portfolio_starts_at_the_default_and_adds_what_helps_most() -> None:
    regrets = np.array([[0.5, 0.4, 0.0, 0.4], [0.5, 0.4, 0.9, 0.0]])
    assert methods.greedy(regrets, 0) == [0, 3, 2, 1]
    points = methods.portfolio()
    assert points[0] == {"learning_rate": pytest.approx(1e-3, rel=0.01), "batch_size": 32}
    assert len({tuple(point.values()) for point in points}) == 120


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_every_method_starts_at_the_default_without_a_warning(
    task: tasks.Task, method: str
) -> None:
    surface = Surface(task)
    expected = surface.values(surface.start).mean()
    regret, retrained = studies.play(surface, method, 0, 4, studies.Unit(-3, 7))
    assert regret[0] == pytest.approx(expected)
    assert (len(regret), len(retrained)) == (4, 1)


def test_units_do_not_change_what_a_sampler_does(task: tasks.Task) -> None:
    surface = Surface(task)
    plain, scaled = (
        studies.play(surface, "tpe", 1, 15, unit)[0] for unit in (studies.Unit(), studies.Unit(-8))
    )
    assert plain == pytest.approx(scaled)


def test_a_unit_must_tell_values_apart() -> None:
    with pytest.raises(InvalidInputError, match="must not be 0"):
        studies.Unit(0.0, 1.0)


def test_best_so_far_goes_by_what_was_measured() -> None:
    assert studies.best_so_far(np.array([3.0, 1.0, 2.0, 1.0, 0.0])).tolist() == [0, 1, 1, 1, 4]


def test_retraining_uses_a_seed_that_was_not_seen() -> None:
    class Lucky:
        name, family = "lucky", "none"
        space = {"x": optuna.distributions.FloatDistribution(0, 1)}  # noqa: RUF012
        start = {"x": 0.5}  # noqa: RUF012

        def values(self, params: object) -> np.ndarray:
            return np.array([-1.0, 1.0])

    for seed in range(4):
        regret, retrained = studies.play(Lucky(), "random", seed, 1, studies.Unit())
        assert regret == pytest.approx(0)
        assert abs(retrained[0]) == 1
    regret, retrained = studies.play(Lucky(), "random", 0, 12, studies.Unit())
    assert retrained[-1] == 1, "the best of twelve measured the lucky seed"


def runs(values: list[list[float]]) -> scores.Runs:
    regret = np.array(values)[:, None, :]
    return scores.Runs(regret, regret[..., -1:])


def test_a_family_is_lost_by_more_than_a_standard_error() -> None:
    ours, theirs = np.array([0.1, 0.1, 0.3, 0.1]), np.array([0.0, 0.02, 0.2, 0.3])
    lost, tied = scores.against(ours, theirs, ["a", "a", "b", "b"], 5)
    assert (lost.name, lost.verdict) == ("a", -1)
    assert lost.difference == pytest.approx(0.09)
    assert lost.error == pytest.approx(0.01)
    assert (tied.name, tied.verdict) == ("b", 0)
    assert scores.against(theirs, ours, ["a"] * 4, 5)[0].verdict == 0
    assert scores.against(theirs[:1], ours[:1], ["a"], 5)[0].verdict == 1


def test_the_worst_number_of_trials_is_found() -> None:
    ours, rival = np.full((2, 8), 0.1), np.full((2, 8), 0.2)
    rival[:, 0], rival[:, 5] = 0.0, 0.12
    results = {"a": runs(ours.tolist()), "b": runs(rival.tolist())}
    assert "| b | 6 | -0.020 ± 0.000 |" in report.markdown(scores.closest(results, "a", ["b"]))


def test_tables_and_blocks_of_a_page(tmp_path: Path) -> None:
    results = {"a": runs([[0.5, 0.02], [0.5, 0.01]]), "b": runs([[0.4, 0.04], [0.4, 0.3]])}
    table = report.markdown(scores.ranks(results))
    assert "| a | 1.0 | 2 |" in table
    assert "| b | 2.0 | > 2 |" in table
    summary = report.markdown(scores.regret(results, ["f", "g"]))
    assert "| a | 1 | 0.015 ± 0.005 (0.005) |" in summary
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    small = Table("x", title="T")
    for head in ("first", "second"):
        report.publish("one", head, [small], page)
        report.publish("two", head, [small], page, "two.svg")
    text = page.read_text()
    assert text.startswith("# Page\n\n<!-- begin one -->\n\nsecond\n\n**T**\n\n| x |")
    assert "first" not in text
    assert text.count("![two](two.svg)") == 1
    assert text.endswith("<!-- end two -->\n")
    page.write_text("<!-- begin one -->\nfigures")
    with pytest.raises(InvalidInputError, match="must be followed by"):
        report.publish("one", "third", [small], page)


def test_epochs_count_and_pruned_trials_are_not_recommended(task: tasks.Task) -> None:
    surface = Surface(task)
    regret = epochs.regrets(surface, "tpe + median", 0, 100)
    assert (regret[: epochs.EPOCHS - 1] == 1).all()
    assert regret[epochs.EPOCHS - 1] == pytest.approx(surface.values(surface.start).mean())
    assert epochs.epochs_to(np.array([[[1.0, 0.3, 0.1]]]), np.array([[[1.0, 1.0, 0.3]]])) == "2"
    assert epochs.epochs_to(np.ones((1, 1, 3)), np.zeros((1, 1, 3))) == "> 3"
    own = np.random.default_rng(0).random((32, 2, 3)) + np.array([2.0, 1.0, 0.0])
    assert epochs.epochs_to(own, own) == "3"


def test_epochs_are_repeatable_with_hyperband(task: tasks.Task) -> None:
    first, again = (epochs.regrets(Surface(task), "default + hyperband", 0, 120) for _ in range(2))
    assert first == pytest.approx(again)


def test_commands_print_and_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    few = ["--tasks", "2", "--seeds", "1", "--processes", "1", "--write", str(page)]
    compared = ["--methods", "random", "default", "--trials", "6", "--dimensions", "7"]
    assert sampler.main([*compared, "--shift", "-1.4", "0", *few]) == 0
    assert epochs.main(["--methods", "tpe", "default + median", "--budget", "60", *few]) == 0
    text = page.read_text()
    for name in ("sampler-validation-shift-1.4-7d", "sampler-validation-7d", "epochs-validation"):
        assert f"<!-- begin {name} -->" in text
    assert (tmp_path / "sampler-validation-7d.svg").stat().st_size < 100_000
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("rank", "retrained", "won / tied / lost", "epochs"))


def test_networks_need_names_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        network.main(["a/q.safetensors", "b/q.safetensors"])
    assert "different names" in capsys.readouterr().err


def test_only_studies_of_optuna_s_own_samplers_are_kept(task: tasks.Task, tmp_path: Path) -> None:
    problem, unit = Surface(task), studies.Unit()
    for method in ("random", "random moves"):
        first = studies.play_or_recall(tmp_path, problem, method, 0, 3, unit)
        again = studies.play_or_recall(tmp_path, problem, method, 0, 3, unit)
        plain = studies.play(problem, method, 0, 3, unit)
        for rows in (first, again):
            for a, b in zip(rows, plain, strict=True):
                np.testing.assert_array_equal(a, b)
    assert len(list(tmp_path.rglob("output.pkl"))) == 1
