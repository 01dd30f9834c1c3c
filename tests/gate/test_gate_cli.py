"""`rlhf-tune gate` and `rlhf-tune verify` on real files: exit codes, messages and reports."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_models import (
    EPS,
    FRAGILE,
    ROBUST,
    SEX,
    X,
    Y,
    bias,
    save_data,
    save_exported,
    save_keras,
    save_safetensors,
)

from rlhf_tune import gate
from rlhf_tune.cli import main as cli

torch = pytest.importorskip("torch")
jsonschema = pytest.importorskip("jsonschema")
for package in ("cleverhans", "lxml", "matplotlib", "safetensors"):
    pytest.importorskip(package)

HERE = Path(__file__).parent
FLOOR = ("--eps", str(EPS), "--min-robust-accuracy", "0.8")
FACTORY = ("--factory", "gate_models:linear")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    save_data(tmp_path / "data.npz")
    save_safetensors(tmp_path / "robust.safetensors", ROBUST)
    save_safetensors(tmp_path / "fragile.safetensors", FRAGILE)


def run(model: str, *words: str) -> int:
    return cli.main(["gate", model, "--data", "data.npz", *FLOOR, *words])


def run_torch(*words: str, model: str = "robust.safetensors") -> int:
    return run(model, *FACTORY, "--quiet", *words)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rlhf-tune: error: ")
    assert err.count("\n") == 1, err
    return err


def report(path: str = "r.json") -> Any:
    document = json.loads(Path(path).read_text())
    jsonschema.validate(document, gate.schema())
    return document


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
    save_data(Path("train.npz"), x=X[::-1].copy(), y=Y[::-1].copy())
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


# The spec file


def test_a_spec_file_holds_the_same_and_options_take_precedence() -> None:
    Path("model").mkdir()
    shutil.move("data.npz", "model/data.npz")
    Path("model/gate.toml").write_text(
        'data = "data.npz"\neps = 0.1\nmin_robust_accuracy = 0.99\nreport = "r.json"\n'
        'factory = "gate_models:linear"\nattack = ["pgd"]\nsweep = [0.1]\nbounds = [0, 1]\n'
    )
    words = ["gate", "robust.safetensors", "--spec", "model/gate.toml", "--quiet"]
    assert cli.main(words) == 3, "200 samples cannot certify .99"
    assert report("model/r.json")["verdict"] == "untrusted"
    assert cli.main([*words, "--min-robust-accuracy", "0.97"]) == 1
    assert cli.main([*words, "--min-robust-accuracy", "0.8", "--report", "r.json"]) == 0
    document = report()
    assert document["inputs"]["spec"]["min_robust_accuracy"] == 0.8
    assert list(document["curve"][0]["under"]) == ["pgd"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epz = 0.1", "unknown keys ['epz']; known are"),
        ('eps = "0.1"', "`eps` must be a finite number, but got '0.1'"),
        ("eps = true", "`eps` must be a finite number"),
        ("eps = nan", "`eps` must be a finite number"),
        ("seed = 1.5", "`seed` must be a whole number"),
        ("bounds = [1, 0]", "low < high"),
        ('attack = ["magic"]', "but got ['magic']"),
        ("attack = []", "at least one value"),
        ("data = ''", "`data` must be a text"),
        ('report = "r.keras"', "`report` must end in .json"),
        ("eps = ", "must be TOML"),
        ("confidence = 1.0", "`confidence` must be within (0.5, 1)"),
        ("margin = 0.1", "`baseline` and `margin` must be given together"),
        ("max_samples = 0", "`max_samples`"),
    ],
)
def test_a_bad_spec_is_refused(text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gate.toml").write_text(text)
    words = ["gate", "robust.safetensors", "--spec", "gate.toml", "--junit", "r.xml"]
    if "eps" not in text:
        words += ["--eps", "0.1"]
    if "data" not in text:
        words += ["--data", "data.npz"]
    assert cli.main([*words, "--min-robust-accuracy", "0.5"]) == 2
    assert says in refusal(capsys)
    assert 'errors="1"' in Path("r.xml").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--min-robust-accuracy", "80"], "0.5 means 50 %"),
        (["--min-robust-accuracy", "1"], "within (0, 1)"),
        (["--eps", "8"], "divide by 255?"),
        (["--eps", "0"], "above 0"),
        (["--sweep", "3"], "within the data range"),
        (["--spec", "nowhere.toml"], "cannot be read"),
        (["--report", "r.txt"], "must end in .json"),
        (["--report", "nowhere/r.json"], "a report cannot be written"),
        (["--max-leakage", "0.1"], "must be given together"),
    ],
)
def test_bad_usage_is_2(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch(*words) == 2
    assert says in refusal(capsys)


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", "robust.safetensors", "--data", "data.npz"]) == 2
    assert "--eps, --min-robust-accuracy must be given" in refusal(capsys)


def test_unknown_options_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["gate", "m.keras", "--epz", "1"])
    assert exit_.value.code == 2
    assert "unrecognized arguments: --epz" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["gate", "verify"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"rlhf-tune {command} model.keras" in text
    assert "exit status: 0" in text


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


# Artifacts


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("the_payload_ran",)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.pkl", pickle.dumps(Payload()), "pickles are never loaded"),
        ("model.pt", pickle.dumps(Payload()), "pickled models are never loaded"),
        ("model.safetensors", b"", "is empty"),
        ("model.safetensors", b"\xff" * 40, "safetensors format"),
        ("model.pt2", b"no archive", "must be a program"),
        ("model.txt", b"x", "must end in one of .keras, .pt, .pt2, .pth, .safetensors"),
        ("folder.pt", None, "Is a directory"),
        ("missing.pt", None, "No such file"),
    ],
)
def test_an_artifact_that_is_unsafe_or_unreadable_is_4(
    name: str, content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.pt").mkdir()
    if content is not None:
        Path(name).write_bytes(content)
    assert run_torch("--report", "r.json", "--junit", "r.xml", model=name) == 4
    assert says in refusal(capsys)
    assert (report()["verdict"], report()["exit_code"]) == ("untrusted", 4)
    assert 'errors="1"' in Path("r.xml").read_text()
    assert not Path("the_payload_ran").exists()


def test_a_file_that_may_not_be_read_is_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    assert run_torch() == 4
    assert "Permission denied" in refusal(capsys)


def test_weights_of_nan_are_3() -> None:
    save_safetensors(Path("nan.safetensors"), np.full_like(ROBUST, np.nan))
    assert run_torch("--report", "r.json", model="nan.safetensors") == 3
    assert "not finite" in report()["requirements"][0]["remark"]


def steps() -> Any:
    """A factory: a network whose gradients vanish, in front of a fragile linear model."""

    class Steps(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.hardtanh(super().forward(x) * 1e4) * 1e3

    return Steps(4, 2)


def saturated() -> Any:
    """A factory: probabilities that saturate, from which no logits can be recovered."""

    class Probabilities(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return torch.softmax(super().forward(x) * 1e4, dim=1)

    return Probabilities(4, 2)


@pytest.mark.parametrize(
    ("factory", "says"), [("steps", "masked gradients"), ("saturated", "saturate")]
)
def test_evidence_that_cannot_be_trusted_is_3(factory: str, says: str) -> None:
    words = ("--factory", f"{__name__}:{factory}", "--report", "r.json")
    assert run("fragile.safetensors", "--quiet", *words) == 3
    assert says in report()["requirements"][0]["remark"]


def test_an_exported_program_must_be_in_evaluation_mode_and_take_any_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 2))
    batch = torch.export.Dim("batch")
    inputs = (torch.zeros(3, 4),)
    torch.export.save(
        torch.export.export(network, inputs, dynamic_shapes=({0: batch},)), "training.pt2"
    )
    torch.export.save(torch.export.export(network.eval(), inputs), "static.pt2")
    assert run("training.pt2", "--quiet", "--report", "r.json") == 3
    assert "not deterministic" in report()["requirements"][0]["remark"]
    assert run("static.pt2", "--quiet") == 2
    assert "specify dynamic_shapes" in refusal(capsys)


def test_a_surprise_is_3_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def surprise(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("never\nthought of")

    monkeypatch.setattr("rlhf_tune.gate.sweep.sweep", surprise)
    assert run_torch("--report", "r.json") == 3
    assert "unexpected ZeroDivisionError: never thought of" in refusal(capsys)
    assert report()["artifact"]["sha256"] is not None


def test_a_factory_that_exits_cannot_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("robust.safetensors", "--factory", "sys:exit", "--quiet") == 2
    assert "raised SystemExit" in refusal(capsys)


def test_an_older_report_does_not_outlive_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_torch("--report", "r.json") == 0

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_tune.gate.command.measure", interrupt)
    assert run_torch("--report", "r.json") == 130
    assert not Path("r.json").exists()


# verify


def verify(model: str, *words: str) -> int:
    return cli.main(["verify", model, "--report", "r.json", *words])


def test_verify_knows_the_file_that_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch("--report", "r.json") == 0
    assert verify("robust.safetensors") == 0
    assert capsys.readouterr().out.startswith("this is the file that passed: sha256")
    shutil.copy("robust.safetensors", "renamed.bin")
    assert verify("renamed.bin", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert verify("robust.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == 0


def test_verify_refuses_a_changed_byte(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch("--report", "r.json") == 0
    content = bytearray(Path("robust.safetensors").read_bytes())
    content[-1] ^= 1
    Path("robust.safetensors").write_bytes(content)
    assert verify("robust.safetensors") == 1
    assert "the file and its weights differ" in refusal(capsys)


def test_verify_explains_that_the_same_weights_were_saved_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_torch("--report", "r.json") == 0
    state = torch.load(io.BytesIO(_as_pt("robust.safetensors")), weights_only=True)
    torch.save(state, "again.pt")
    assert verify("again.pt") == 1
    assert "the file differs and the weights do not" in refusal(capsys)


def _as_pt(path: str) -> bytes:
    from safetensors.torch import load_file

    buffer = io.BytesIO()
    torch.save(load_file(path), buffer)
    return buffer.getvalue()


def test_verify_refuses_a_file_that_did_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch("--report", "r.json", model="fragile.safetensors") == 1
    assert verify("fragile.safetensors") == 1
    assert "this file did not pass: its verdict is 'refused'" in refusal(capsys)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"refused"', '"pass"'), ('"exit_code": 1', '"exit_code": 0'), ('"n": 200', '"n": 2000')],
)
def test_verify_notices_an_edited_report(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_torch("--report", "r.json", model="fragile.safetensors") == 1
    text = Path("r.json").read_text()
    assert old in text
    Path("r.json").write_text(text.replace(old, new))
    assert verify("fragile.safetensors") == 3
    assert "its digest does not match" in refusal(capsys)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"artifact": {}}', "[" * 10**5, "NaN"])
def test_verify_needs_a_report(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_text(text)
    assert verify("robust.safetensors") == 2
    refusal(capsys)


def test_verify_needs_both_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("robust.safetensors") == 2
    assert "the report 'r.json' cannot be read" in refusal(capsys)
    assert run_torch("--report", "r.json") == 0
    assert verify("missing.safetensors") == 4
    assert "cannot be read: No such file" in refusal(capsys)


# End to end, as a user's pipeline runs it


def program(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from rlhf_tune.cli.main import main; sys.exit(main())"
    shutil.copy(HERE / "gate_models.py", "shop.py")  # the factory lies in the current folder
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(("name", "status"), [("robust", 0), ("fragile", 1)])
def test_the_program_decides_on_torch_models(name: str, status: int) -> None:
    words = ("--data", "data.npz", *FLOOR, "--factory", "shop:linear", "--report", "r.json")
    done = program("gate", f"{name}.safetensors", *words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert report()["exit_code"] == status


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' saving
class TestKeras:
    @pytest.fixture(autouse=True)
    def _models(self) -> None:
        pytest.importorskip("keras")
        save_keras(Path("robust.keras"), ROBUST)
        save_keras(Path("fragile.keras"), FRAGILE)

    @pytest.mark.parametrize(("name", "status"), [("robust", 0), ("fragile", 1)])
    def test_the_program_decides_on_keras_models(self, name: str, status: int) -> None:
        words = ("--data", "data.npz", *FLOOR, "--report", "r.json", "--quiet")
        done = program("gate", f"{name}.keras", *words)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
        assert report()["exit_code"] == status

    def test_masked_gradients_are_3(self) -> None:
        import keras

        inputs = keras.Input((4,))
        dense = keras.layers.Dense(2)
        steps = keras.layers.ReLU(max_value=1.0)(keras.layers.Rescaling(1e4)(dense(inputs)))
        model = keras.Model(inputs, steps)
        dense.set_weights([FRAGILE, bias(FRAGILE)])
        model.save("steps.keras")
        assert run("steps.keras", "--quiet", "--report", "r.json") == 3
        assert "masked gradients" in report()["requirements"][0]["remark"]

    def test_a_lambda_layer_is_4(self, capsys: pytest.CaptureFixture[str]) -> None:
        import keras

        inputs = keras.Input((4,))
        keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, :2])(inputs)).save("lambda.keras")
        assert run("lambda.keras", "--quiet") == 4
        assert "`Lambda` layer" in refusal(capsys)

    def test_the_same_weights_saved_again_are_explained(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("robust.keras", "--quiet", "--report", "r.json") == 0
        assert verify("robust.keras", "--quiet") == 0
        with zipfile.ZipFile("robust.keras") as old, zipfile.ZipFile("again.keras", "w") as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        assert verify("again.keras") == 1
        assert "the file differs and the weights do not" in refusal(capsys)
        content = bytearray(Path("robust.keras").read_bytes())
        content[len(content) // 2] ^= 1
        Path("robust.keras").write_bytes(content)
        assert verify("robust.keras") == 1
