"""The benchmark of one training run: equal budgets, what is scored, what is printed."""

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import training_run, training_run_overhead
from benchmarks.common import report
from benchmarks.runs import methods, problems
from benchmarks.runs.methods import METHODS
from rlhf_tune.errors import MissingExtraError
from rlhf_tune_integrations.pytorch import TorchTrainer

INSTALLED = [name for name, m in METHODS.items() if m.package is None or find_spec(m.package)]
SPIRALS = ("spirals", "mlp64-sgd")


def posed(task: problems.Task = ("iris", "linear-adam"), steps: int = 96) -> training_run.Problem:
    return problems.problem(task, steps=steps)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of every stretch that any trainer trains."""
    steps: list[int] = []
    train = TorchTrainer.train

    def counted(self: TorchTrainer, asked: int) -> training_run_overhead.Metrics:
        metrics = train(self, asked)
        steps.append(int(metrics["steps"]))
        return metrics

    monkeypatch.setattr(TorchTrainer, "train", counted)
    return steps


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("steps", [100, 240])
def test_every_method_keeps_to_the_budget(name: str, steps: int, taken: list[int]) -> None:
    problem = posed(steps=steps)
    trainer = METHODS[name].run(problem, 1e-3, 0)
    assert sum(taken) <= steps
    if name != "grow":  # a larger batch makes fewer steps of as many samples
        assert sum(taken) > 0.98 * steps - 2
    assert 0 <= problem.score(trainer) <= 1


@pytest.mark.parametrize("name", [n for n in INSTALLED if METHODS[n].takes_rate])
def test_a_run_that_diverges_hands_back_a_finite_state(name: str) -> None:
    trainer = METHODS[name].run(posed(("iris", "mlp64-sgd")), 1e12, 0)
    assert math.isfinite(trainer.evaluate()["val_loss"])


@pytest.mark.parametrize("name", [n for n in INSTALLED if not METHODS[n].takes_rate])
def test_who_ignores_the_initial_rate_does_so(name: str) -> None:
    problem = posed()
    low, high = (METHODS[name].run(problem, rate, 0).evaluate() for rate in (1e-5, 1.0))
    assert low == high


def test_equal_seeds_have_equal_weights_and_batches() -> None:
    problem = posed()
    first, again, other = (methods.constant(problem, 1e-2, seed) for seed in (0, 0, 1))
    assert first.evaluate() == again.evaluate() != other.evaluate()


def test_the_best_state_is_handed_back() -> None:
    problem = posed(("iris", "mlp64-sgd"), steps=240)
    trainer = problem.trainer(3.0, 0)
    losses = [trainer.evaluate()["val_loss"] for _ in range(10) if trainer.train(24)]
    assert methods.constant(problem, 3.0, 0).evaluate()["val_loss"] == min(losses)


def test_validation_and_held_out_data_are_different_rows() -> None:
    problem = problems.problem(SPIRALS, steps=1)
    (x, y), (others, labels) = problem.validation, problem.held_out
    assert len(x) == len(y) == 256
    assert len(others) == len(labels) >= 256
    assert len(x) + len(others) == len(problem.data.x_val)
    few = posed()
    assert abs(len(few.validation[1]) - len(few.held_out[1])) <= 1


def test_inputs_are_standardised_and_scaled_by_the_model() -> None:
    problem = problems.problem(("wine", "linear-adam"), steps=1, scale=10)
    first = problem.trainer(1e-3, 0).model[0]
    seen = first(torch.from_numpy(problem.data.x_train)).numpy()
    assert seen.mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert seen.std(axis=0) == pytest.approx(10, rel=1e-3)


def test_a_schedule_free_optimizer_is_evaluated_at_its_average() -> None:
    pytest.importorskip("schedulefree")
    trainer = posed().trainer(0.1, 0, "schedule-free")
    weight = trainer.model[-1].weight
    trainer.train(30)
    trained = weight.detach().clone()
    trainer.evaluate()
    averaged = weight.detach().clone()
    assert not torch.allclose(trained, averaged)
    kept = trainer.snapshot()
    trainer.train(30)
    trainer.restore(kept)
    assert torch.equal(weight, averaged)
    trainer.train(1)
    trainer.evaluate()
    assert not torch.equal(weight, averaged)


def test_a_finder_goes_back_and_finds_a_rate_that_learns(taken: list[int]) -> None:
    problem = posed(("iris", "mlp64-sgd"), steps=600)
    trainer = problem.trainer(1e-3, 0)
    before = trainer.evaluate()
    rate, steps = methods.found_rate(trainer, problem)
    assert trainer.evaluate() == before
    assert steps == sum(taken) <= 60
    assert 1e-3 < rate < 1


def test_a_population_takes_over_the_best_rate() -> None:
    problem = posed(("iris", "mlp64-sgd"), steps=480)
    alone = methods.constant(problem, 1e-4, 0).evaluate()["val_loss"]
    assert methods.population(problem, 1e-4, 0).evaluate()["val_loss"] < alone


def test_a_search_begins_at_the_default_and_keeps_the_best_by_validation_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a problem whose score is the rate, and whose loss is least at .01."""

    def constant(_problem: object, rate: float, _seed: int) -> SimpleNamespace:
        return SimpleNamespace(rate=rate, evaluate=lambda: {"val_loss": abs(math.log10(rate) + 2)})

    monkeypatch.setattr(methods, "constant", constant)
    rates = np.geomspace(1e-5, 1, 11)
    simple = SimpleNamespace(rates=rates, usual_rate=1e-3, score=lambda trainer: trainer.rate)
    reached = methods.tpe(simple, 0, (1, 3, 20))
    distances = [abs(math.log10(rate) + 2) for rate in reached]
    assert reached[0] == pytest.approx(1e-3)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.3


def test_gaps_are_to_the_best_constant_rate_in_hindsight() -> None:
    asked = ["constant", "default", "TPE"]
    gaps = training_run.gaps(
        (("iris", "linear-adam"), 1.0), asked, seeds=2, steps=24, data_dir=None
    )
    assert {name: gap.shape for name, gap in gaps.items()} == {
        "11 constant rates": (2, 1),
        "best rate of other seeds": (2, 1),
        "the same, driven": (2, 1),
        "constant": (2, 6),
        "default": (2, 1),
        **{f"TPE, {n} run{'s' * (n > 1)}": (2, 1) for n in (1, 3, 5, 10, 20)},
    }
    # The initial rates are every other one of the constant rates.
    assert gaps["constant"].mean(axis=0).min() >= -1e-12
    assert gaps["11 constant rates"].mean() >= -1e-12


def results() -> list[training_run.Gaps]:
    return [
        {"default": np.array([[0.0], [0.02]]), "rival": np.array([[0.1, 0.0], [0.3, 0.02]])},
        {"default": np.array([[0.01], [0.01]]), "rival": np.array([[0.41, 0.02], [0.41, 0.02]])},
    ]


def test_a_summary_has_the_mean_over_tasks_and_the_worst_of_runs() -> None:
    table = report.markdown(training_run.summary(results()))
    assert "| default | 1 | 0.010 ± 0.000 | 0.017 | 0.020 | ignored |" in table
    assert "| rival | 1 | 0.160 ± 0.055 | 0.410 | 0.410 | 0.305 0.015 |" in table


def test_rivals_are_compared_by_task_also_at_their_best_initial_rate() -> None:
    table = report.markdown(training_run.against(results(), ["a", "b"]))
    assert "| rival | 0.150 ± 0.055 | +2.7 | 0.055 | 0.005 ± 0.005 |" in table
    assert "| default" not in table


def test_equal_methods_differ_by_no_errors() -> None:
    same = [{"default": np.zeros((1, 1)), "rival": np.zeros((1, 1))}] * 2
    table = report.markdown(training_run.against(same, ["a", "b"]))
    assert "| rival | 0.000 ± 0.000 | - | 0.000 | |" in table


def test_a_missing_package_is_left_out_with_a_note_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    kept = training_run.available(None, Console(width=200))
    assert "Prodigy" not in kept
    assert {"default", "TPE"} <= set(kept)
    said = capsys.readouterr().out
    assert "left out: Prodigy, Prodigy, cosine" in said
    assert "pip install 'rlhf-tune[benchmarks]'" in said
    with pytest.raises(MissingExtraError, match=r"rlhf-tune\[benchmarks\]"):
        training_run.available(["default", "Prodigy"], Console())


def test_the_controller_itself_is_told_from_training_and_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 < training_run_overhead.share(posed(), 0) < 10
    page = tmp_path / "page.md"
    assert training_run_overhead.main(["--tasks", "1", "--steps", "48", "--write", str(page)]) == 0
    text = page.read_text()
    assert "`python -m benchmarks.training_run_overhead --tasks 1 --steps 48" in text
    assert "| network-optimizer | tasks | mean | largest |" in text
    words = ["--tasks", "1", "--steps", "48", "--checkpoint", "--write", str(page)]
    assert training_run_overhead.main(words) == 0
    assert text.strip() in page.read_text()
    assert "| by time of training | ms a checkpoint |" in page.read_text()
    words = ["--tasks", "1", "--steps", "48", "--plain", "--write", str(page)]
    assert training_run_overhead.main(words) == 0
    assert "time of a run by that of a plain loop" in page.read_text()
    assert "%" in capsys.readouterr().out


def test_the_plain_loop_takes_the_steps_and_evaluations_of_a_run() -> None:
    model, modes = posed().trainer(1e-3, 0).model, []
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    training_run_overhead.plain_loop(posed(), model, evaluations=7)
    assert modes.count(True) == posed().steps
    assert modes.count(False) == 7
    after = list(model.parameters())
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_subsets_are_parts_of_a_split() -> None:
    every = problems.tasks("validation", files=False)
    some = problems.tasks("validation", files=False, count=5)
    assert len(some) == 5
    assert set(some) < set(every) < set(problems.tasks("validation", files=True))
    assert not set(every) & set(problems.tasks("test", files=True))


def test_main_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    few = ["--seeds", "1", "--steps", "48", "--processes", "1", "--write", str(page)]
    assert training_run.main(["--tasks", "2", *few, "--methods", "constant", "default"]) == 0
    scaled = ["--tasks", "1", *few, "--scales", "0.1", "10", "--methods", "default"]
    assert training_run.main(scaled) == 0
    text = page.read_text()
    assert "<!-- begin training_run-validation -->" in text
    assert "<!-- begin training_run-validation-scales-0.1-10 -->" in text
    assert "`python -m benchmarks.training_run --tasks 2 --seeds 1" in text
    assert text.count("**gap of the rival minus gap of 'default'") == 2
    assert "hindsight" in capsys.readouterr().out
