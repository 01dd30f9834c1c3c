"""The main job from end to end, on little data."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

pytest.importorskip("torch")

from rlhf_tune import cli
from rlhf_tune.study import decision, recommendation

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from rlhf_tune.demo import data, replay, report, torch_cnn
from rlhf_tune.demo.settings import Settings
from rlhf_tune.safety import Measurement

Summary = dict[str, Any]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the digits, as a file: 200 images to train on, 50 to validate, 60 to test."""
    digits = data.load("digits", max_train=250)
    file = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(
        file,
        x_train=np.rint(digits.x_train[..., 0] * 255).astype(np.uint8),
        y_train=digits.y_train.astype(np.uint8),
        x_test=digits.x_test[:60],
        y_test=digits.y_test[:60],
    )
    return file


@pytest.fixture(scope="module")
def demo(images: Path) -> Callable[..., int]:
    """The command in a folder of runs, small and in this process; gives its exit status."""

    def run(runs: Path, *words: str, trials: int = 3, floor: float = 0) -> int:
        options = f"--framework torch --trials {trials} --epochs 1 --seed 3 --data {images}"
        fixed = ["--runs-dir", str(runs), "--min-robust-accuracy", str(floor)]
        return cli.main(["demo", *options.split(), *fixed, *words])

    return run


Demo = Callable[..., int]


def summary(runs: Path, name: str = "demo") -> Summary:
    return dict(json.loads((runs / name / "summary.json").read_text()))


def trials(runs: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{runs / 'demo' / 'study.db'}")
    try:
        return optuna.load_study(study_name="demo", storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def on_call(number: int, act: Callable[[Any], None]) -> Callable[..., None]:
    """`torch_cnn.train`, which also does `act(model)` when called for the n-th time."""
    train, calls = torch_cnn.train, []

    def wrapped(model: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        train(model, *args, **kwargs)
        if len(calls) == number:
            act(model)

    return wrapped


def interrupt(_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of an uninterrupted run of four trials."""
    runs = tmp_path_factory.mktemp("finished")
    assert demo(runs, trials=4) == 0
    return runs


def test_writes_everything(finished: Path) -> None:
    written = {path.name for path in (finished / "demo").iterdir()}
    assert written == {"study.db", "summary.json", "summary.md", "trials.png", "model.safetensors"}
    found = summary(finished)
    assert found["verdict"] == "satisfied"
    assert found["data"] == {
        "shape": [8, 8, 1],
        "classes": 10,
        "train": 200,
        "validation": 50,
        "test": 60,
    }
    assert found["trials"][0]["learning_rate"] == 1e-3
    assert found["trials"][0]["batch_size"] == 32
    assert [row["number"] for row in found["trials"]] == [0, 1, 2, 3]
    fgsm, worst = found["test"]["under"]["FGSM"], found["test"]["under"]["noise, FGSM, PGD"]
    assert fgsm["low"] < fgsm["accuracy"] <= found["test"]["clean_accuracy"]
    assert worst["accuracy"] <= fgsm["accuracy"]
    assert fgsm["n"] == 60
    text = (finished / "demo" / "summary.md").read_text()
    assert text.startswith("# demo: satisfied\n")
    assert f"| under FGSM | {fgsm['accuracy']:.3f} (95 %:" in text
    assert (finished / "demo" / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_every_trial_carries_its_constraint(finished: Path) -> None:
    for trial, row in zip(trials(finished), summary(finished)["trials"], strict=True):
        cost = trial.constraints["robust_accuracy"]
        assert cost == trial.user_attrs["robust_accuracy_constraint"] == row["constraint"]
        assert cost > -trial.user_attrs["robust_accuracy"], "the bound lies below the estimate"
        assert trial.user_attrs["robust_accuracy"] <= trial.user_attrs["clean_accuracy"]
        assert 0 < row["loss"] <= math.log(10)


def test_the_model_on_disk_is_the_one_that_was_measured(finished: Path, images: Path) -> None:
    from safetensors.torch import load_file

    given = data.load(str(images), max_train=200)
    model = torch_cnn.build(given.shape, given.classes, seed=0)
    model.load_state_dict(load_file(finished / "demo" / "model.safetensors"))
    right = torch_cnn.logits(model, given.x_test).argmax(axis=1) == given.y_test
    assert summary(finished)["test"]["clean_accuracy"] == right.mean()


def test_an_interrupted_run_goes_on_to_what_an_uninterrupted_one_does(
    demo: Demo,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch_cnn, "train", on_call(3, interrupt))
        assert demo(tmp_path, "--fresh", trials=4) == 130
    again = "to go on, run: rlhf-tune demo --framework torch --trials 4"
    message = capsys.readouterr().err
    assert again in message
    assert "--fresh" not in message
    assert [t.state for t in trials(tmp_path)] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.RUNNING,
    ]
    assert demo(tmp_path, trials=4) == 0
    assert "2 of 4 trials are done" in capsys.readouterr().out
    assert summary(tmp_path) == summary(finished)


def test_a_finished_run_only_reports_and_can_be_extended(
    demo: Demo, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, trials=2) == 0
    short = summary(tmp_path)
    assert demo(tmp_path, trials=2) == 0
    assert "2 trials are done; only the report is made again" in capsys.readouterr().out
    assert summary(tmp_path) == short
    assert demo(tmp_path, trials=4) == 0
    assert summary(tmp_path)["trials"] == summary(finished)["trials"]


def test_other_settings_are_refused_unless_fresh(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, trials=1) == 0
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert demo(tmp_path, "--eps", "0.1", trials=1) == 2
    message = capsys.readouterr().err
    assert "eps=0.05 and 0.1 was asked; use --fresh to start anew, or another --name" in message
    assert summary(tmp_path)["settings"]["eps"] == 0.05
    assert demo(tmp_path, "--eps", "0.1", "--fresh", trials=1) == 0
    assert summary(tmp_path)["settings"]["eps"] == 0.1
    assert (tmp_path / "demo" / "notes.txt").read_text() == "mine"
    assert demo(tmp_path, "--name", "other", trials=1) == 0


def test_a_training_that_diverges_is_a_failed_trial(
    demo: Demo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diverge(model: Any) -> None:
        model[-1].bias.data[:] = math.nan

    monkeypatch.setattr(torch_cnn, "train", on_call(2, diverge))
    assert demo(tmp_path) == 0
    assert [row["state"] for row in summary(tmp_path)["trials"]] == [
        "feasible",
        "failed",
        "feasible",
    ]
    assert summary(tmp_path)["trials"][1]["loss"] is None
    assert "loss -  clean -  FGSM -  failed" in capsys.readouterr().out


def test_an_interrupted_trial_may_still_diverge(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch_cnn, "train", on_call(1, interrupt))
        assert demo(tmp_path) == 130
    with monkeypatch.context() as patch:
        patch.setattr(torch_cnn, "train", on_call(1, lambda m: m[-1].bias.data.fill_(math.nan)))
        assert demo(tmp_path) == 0
    states = [row["state"] for row in summary(tmp_path)["trials"]]
    assert states == ["failed", "feasible", "feasible"]


@pytest.mark.filterwarnings("ignore:the study ends here")
def test_where_nothing_keeps_the_floor_it_says_so(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, floor=0.94, trials=4) == 1
    found = summary(tmp_path)
    assert found["verdict"] == "cannot certify"
    assert found["recommended"] is found["test"] is found["model"] is None
    assert {row["state"] for row in found["trials"]} == {"unsafe"}
    out = capsys.readouterr().out
    assert "No setting can be recommended: none keeps the floor." in out
    assert "Lower --min-robust-accuracy" in out
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    assert written == {"study.db", "summary.json", "summary.md", "trials.png"}


@pytest.mark.filterwarnings("ignore:the study ends here")
def test_a_study_that_the_sampler_ended_is_not_prolonged(
    demo: Demo,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(state: Any, *_: Any) -> str:
        return "that is enough" if len(state.history.numbers) > 3 else ""

    monkeypatch.setattr(decision, "nothing_left", found)
    assert demo(tmp_path, floor=0.94, trials=30) == 1
    ran = summary(tmp_path)["trials"]
    assert len(ran) == 5
    assert demo(tmp_path, floor=0.94, trials=30) == 1
    assert summary(tmp_path)["trials"] == ran
    assert f"{len(ran)} trials are done" in capsys.readouterr().out


def test_takes_integers_and_floats_of_a_file(images: Path) -> None:
    given = data.load(str(images), max_train=120)
    assert given.x_train.shape == (120, 8, 8, 1)
    assert given.x_validation.shape == (130, 8, 8, 1)
    assert given.x_train.max() == given.x_test.max() == 1
    again = data.load(str(images), max_train=120)
    np.testing.assert_array_equal(given.x_validation, again.x_validation)


def test_the_parts_of_the_digits_are_disjoint_and_scaled() -> None:
    images = data.load("digits", max_train=4000)
    parts = [images.x_train, images.x_validation, images.x_test]
    assert sum(map(len, parts)) == 1797
    assert len(np.unique(np.concatenate(parts).reshape(1797, -1), axis=0)) == 1797
    for x in parts:
        assert x.dtype == np.float32
        assert (x.min(), x.max()) == (0, 1)


def chosen() -> recommendation.Recommendation:
    params = {"learning_rate": 1e-3, "batch_size": 32}
    of = recommendation.Summary(2, 2, 2, 0, 1, 1, ("robust_accuracy",))
    return recommendation.Recommendation(0, params, 0.2, 0.21, {"robust_accuracy": -0.01}, 0, of)


def measurement(**kwargs: Any) -> Measurement:
    given = {"name": "robust_accuracy", "value": 0.7, "bound": 0.65, "interval": (0.66, 0.74)}
    return Measurement(
        **given | {"n": 450, "cost": -0.01, "details": {"clean_accuracy": 0.9}} | kwargs
    )


@pytest.mark.parametrize(
    ("fgsm", "ladder", "verdict"),
    [
        ({}, {}, "satisfied"),
        ({}, {"cost": 0.2}, "satisfied"),
        ({"cost": 0.01}, {"cost": 0.2}, "missed"),
        ({}, {"cost": math.inf, "reasons": ("FGSM beats PGD",)}, "untrusted"),
    ],
)
def test_the_verdict(fgsm: dict[str, Any], ladder: dict[str, Any], verdict: str) -> None:
    under = {"FGSM": measurement(**fgsm), "noise, FGSM, PGD": measurement(**ladder)}
    found = report.outcome(chosen(), "m", 0.2, under)
    assert found["verdict"] == verdict
    text = " ".join(report.conclusion(found))
    assert ("Lower --min-robust-accuracy" in text) == (verdict != "satisfied")
    assert ("FGSM beats PGD" in text) == (verdict == "untrusted")


def row(number: int, state: str, loss: float | None) -> dict[str, Any]:
    return {"number": number, "state": state, "loss": loss, "robust_accuracy": 0.7}


def test_the_summary_says_what_was_gained_why_and_what_was_risked() -> None:
    rows = [row(0, "unsafe", 0.4), row(1, "failed", None), row(2, "feasible", 0.2)]
    seen = {"trials": rows, "chosen": {"number": 2, "why": "expected again 0.2"}}
    below = {"random search": [1.0, 1.5, 2.5], "TPE": [1.0, 1.0, 1.25]}
    gained, why, risked = report.gained(seen | {"replayed": {"below": below}})
    assert "from loss 0.400 and FGSM accuracy 0.700 (misses the floor) in trial 0" in gained
    assert "to loss 0.200 and FGSM accuracy 0.700 (keeps the floor) in trial 2" in gained
    assert why == "Why trial 2: expected again 0.2."
    assert risked.startswith("Below the floor: 1 of 3 trials here; replayed on a recorded table")
    assert risked.endswith("random search 2.5 and TPE 1.25.")
    (alone,) = report.gained({"trials": rows[1:], "chosen": None, "replayed": None})
    assert alone == "Below the floor: 0 of 2 trials."


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_the_floor_of_the_demo_binds(framework: Any) -> None:
    cells = replay.recorded(Settings(framework=framework))
    assert cells is not None
    below = [bound < Settings().min_robust_accuracy for *_, bound in cells]
    assert 0.5 < sum(below) / len(below) < 0.9
    losses = sorted((loss, is_below) for (*_, loss, _), is_below in zip(cells, below, strict=True))
    assert not losses[0][1], "the best setting keeps it"


def test_other_samplers_are_replayed_on_the_recorded_table() -> None:
    settings = Settings(framework="torch", trials=12)
    replayed = replay.replay(settings)
    assert replayed is not None
    assert replayed == replay.replay(settings), "nothing of it is random"
    for counts in replayed["below"].values():
        assert len(counts) == 12
        assert all(0 <= b - a <= 1 for a, b in itertools.pairwise([0, *counts]))
    # Random search's trials are uniform over the space, but for the first: so is what it risks.
    cells = replay.recorded(settings)
    assert cells is not None
    share = len(replayed["settings"]) / len(cells)
    assert replayed["below"]["random search"][-1] == pytest.approx(12 * share, abs=1.5)
    nothing = replay.replay(Settings(framework="torch", trials=3, min_robust_accuracy=0.0))
    assert nothing is not None
    assert nothing["settings"] == []
    assert set(nothing["below"]["TPE"]) == {0.0}


@pytest.mark.parametrize("other", [{"epochs": 3}, {"eps": 0.1}, {"data": "mnist.npz"}])
def test_what_was_not_recorded_is_not_replayed(other: dict[str, Any]) -> None:
    assert replay.replay(Settings(**other)) is None


@pytest.mark.keras
# TensorFlow 2.21's tensors do not know the `copy` argument of NumPy 2's `__array__`.
@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
def test_keras_on_the_digits_goes_on_to_what_an_uninterrupted_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow")
    from rlhf_tune.demo import keras_cnn

    options = ["--trials", "2", "--epochs", "1", "--max-train", "200", "--min-robust-accuracy", "0"]
    command = ["demo", *options, "--runs-dir", str(tmp_path)]
    assert cli.main([*command, "--name", "whole"]) == 0
    with monkeypatch.context() as patch:
        build, calls = keras_cnn.build, []

        def once(*args: Any) -> Any:
            calls.append(1)
            return interrupt(None) if len(calls) == 2 else build(*args)

        patch.setattr(keras_cnn, "build", once)
        assert cli.main(command) == 130
    assert cli.main(command) == 0
    assert (tmp_path / "demo" / "model.keras").exists()
    assert summary(tmp_path)["data"]["test"] == 450
    assert summary(tmp_path) | {"name": "whole"} == summary(tmp_path, "whole")
