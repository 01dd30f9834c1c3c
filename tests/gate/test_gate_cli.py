"""`rlhf-tune gate` on real files: exit codes, messages and reports."""

import io
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_commands import FACTORY, refusal, report, run, run_torch
from gate_models import (
    EPS,
    ROBUST,
    SEX,
    X,
    Y,
    save_data,
    save_exported,
)

from rlhf_tune import cli

torch = pytest.importorskip("torch")
for package in ("jsonschema", "matplotlib"):
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("_place")

# Passes and refusals


def test_a_robust_model_passes_and_every_report_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = ("--report", "r.json", "--junit", "r.xml", "--markdown", "r.md")
    assert run("robust.safetensors", *FACTORY, "--min-accuracy", "0.85", *outputs) == 0
    out, err = capsys.readouterr()
    assert out.startswith("pass  robust.safetensors  sha256 ")
    assert "robust_accuracy: 0.95" in out
    assert "--factory runs the code of gate_models:linear" in err
    assert "\x1b" not in out + err, "colours are for terminals"
    document = report()
    assert (document["verdict"], document["exit_code"]) == ("pass", 0)
    assert [row["name"] for row in document["requirements"]] == ["robust_accuracy", "accuracy"]
    assert document["created"] == "2023-11-14T22:13:20Z"
    assert document["inputs"]["data"]["n"] == len(X)
    assert document["inputs"]["spec"]["data"] == "data.npz"
    assert [point["eps"] for point in document["curve"]] == pytest.approx(
        [0, 0.025, 0.05, 0.1, 0.15, 0.2]
    )
    assert "![Accuracy over the radius of the attack](r.png)" in Path("r.md").read_text()
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    assert 'failures="0"' in Path("r.xml").read_text()


def test_a_fragile_model_is_refused_and_every_report_is_written() -> None:
    outputs = ("--report", "r.json", "--junit", "r.xml", "--markdown", "r.md")
    assert run_torch(*outputs, model="fragile.safetensors") == 1
    assert report()["verdict"] == "refused"
    assert Path("r.png").exists()
    assert 'failures="1"' in Path("r.xml").read_text()
    assert "❌ refused" in Path("r.md").read_text()


def test_the_same_input_gives_the_same_bytes() -> None:
    contents = []
    for name in ("a", "b"):
        assert run_torch("--report", f"{name}.json", "--markdown", f"{name}.md") == 0
        contents.append(Path(f"{name}.json").read_bytes() + Path(f"{name}.png").read_bytes())
    assert contents[0] == contents[1]


def test_json_on_standard_output_is_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch("--json", "--report", "r.json") == 0
    out, err = capsys.readouterr()
    assert out == Path("r.json").read_text()
    assert err == ""


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch() == 0
    assert capsys.readouterr() == ("", "")


def test_without_matplotlib_there_is_no_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("robust.safetensors", *FACTORY, "--markdown", "r.md") == 0
    assert "rlhf-tune: note: there is no picture" in capsys.readouterr().err
    assert "![" not in Path("r.md").read_text()


def test_any_name_can_be_shown_on_any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.where(np.arange(200) % 4 < 2, "größe \ud800", "x")
    save_data(Path("data.npz"), groups=groups)
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    outputs = ("--report", "r.json", "--junit", "r.xml", "--markdown", "r.md")
    assert run("robust.safetensors", *FACTORY, *outputs) == 0
    shown.seek(0)
    assert "gr\\xf6\\xdfe" in shown.read()


def test_an_output_that_is_closed_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("builtins.print", closed)
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_tune.gate.command._say", lambda message, kind="error": None)
        assert run_torch("--json") == 2


def test_an_exported_program_needs_no_code() -> None:
    save_exported(Path("robust.pt2"), ROBUST)
    assert run("robust.pt2", "--quiet") == 0


def test_every_group_must_keep_the_floor() -> None:
    unfair = np.where(np.arange(200) < 20, "few", "many")  # among the few are all the errors
    save_data(Path("data.npz"), groups=unfair, sex=SEX)
    assert run_torch("--report", "r.json") == 1
    outcomes = {row["name"]: row["outcome"] for row in report()["requirements"]}
    assert outcomes == {
        "robust_accuracy": "pass",
        "robust_accuracy[groups=few]": "refused",
        "robust_accuracy[groups=many]": "pass",
    }
    assert run_torch("--groups", "sex") == 0


def test_leakage_is_measured_against_members() -> None:
    others = np.where(np.arange(4) == 0, X, 1 - X)  # members tell nothing that the class does not
    save_data(Path("train.npz"), x=others)
    words = ("--members", "train.npz", "--max-leakage", "0.1", "--report", "r.json")
    assert run_torch(*words) == 0
    assert "membership_leakage" in [row["name"] for row in report()["requirements"]]
    shutil.copy("data.npz", "train.npz")
    assert run_torch(*words) == 2, "the holdout samples are no members"


def test_a_new_model_must_not_fall_behind_the_old_one(tmp_path: Path) -> None:
    floor = ("--data", "data.npz", "--eps", str(EPS), "--min-robust-accuracy", "0.01")
    margin = ("--margin", "0.05", *FACTORY, "--quiet")
    new, old = "robust.safetensors", "fragile.safetensors"
    assert cli.main(["gate", new, *floor, "--baseline", old, *margin]) == 0
    assert cli.main(["gate", old, *floor, "--baseline", new, *margin]) == 1
    assert cli.main(["gate", new, *floor, "--baseline", "missing.keras", *margin]) == 4


def test_a_choice_of_samples_depends_on_the_seed() -> None:
    for seed in ("0", "1"):
        run_torch("--max-samples", "100", "--seed", seed, "--report", f"{seed}.json")
    first, second = report("0.json"), report("1.json")
    assert first["inputs"]["data"]["n"] == 100
    assert first["inputs"]["data"]["of"] == 200
    assert first["inputs"]["data"]["sha256"] == second["inputs"]["data"]["sha256"]
    assert first["requirements"][0]["value"] != second["requirements"][0]["value"]


# Data


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y": None}, "must hold the arrays ['y']"),
        ({"x": np.where(np.arange(4) == 1, np.nan, X)}, "`x` must be finite"),
        ({"x": X[:, :3]}, "the model must take batches of `x`"),
        ({"x": X[0]}, "`x` must have the shape [N, ...]"),
        ({"x": X * 2}, "must lie within bounds=(0, 1)"),
        ({"y": Y + 1}, "below the model's 2 classes"),
        ({"y": Y[:9]}, "same length"),
        ({"y": Y.astype(float)}, "integer class labels"),
        ({"groups": SEX[:9]}, "`groups` must hold one"),
        ({"y": np.array([{}] * 200)}, "Object arrays cannot be loaded"),
    ],
)
def test_bad_data_is_2(
    changes: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_data(Path("data.npz"), **changes)
    assert run_torch("--report", "r.json", "--markdown", "r.md") == 2
    assert says in refusal(capsys)
    assert says in report()["error"]
    assert "**Error:**" in Path("r.md").read_text()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken", pickle.dumps({"x": 1})])
def test_data_that_is_no_npz_is_2(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.npz").write_bytes(content)
    assert run_torch() == 2
    assert "must be an npz file" in refusal(capsys)


def test_too_few_samples_are_3_and_the_needed_number_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_torch("--max-samples", "10") == 3
    assert "at least 14 samples are needed to certify 0.8" in refusal(capsys)
    assert run_torch("--min-robust-accuracy", "0.93", "--report", "r.json") == 3
    assert "samples would do at this value" in report()["requirements"][0]["remark"]
