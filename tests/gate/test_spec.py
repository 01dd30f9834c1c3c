"""The spec file and the options: what they hold, and what is said of bad ones."""

import shutil
from pathlib import Path

import pytest
from gate_commands import refusal, report, run_torch

from rlhf_tune import cli
from rlhf_tune.gate import spec

torch = pytest.importorskip("torch")
for package in ("cleverhans", "jsonschema", "matplotlib", "safetensors"):
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("_place")


def test_a_spec_file_holds_the_same_and_options_take_precedence() -> None:
    Path("model").mkdir()
    shutil.move("data.npz", "model/data.npz")
    Path("model/gate.toml").write_text(
        'data = "data.npz"\neps = 0.1\nmin_robust_accuracy = 0.99\nreport = "r.json"\n'
        'factory = "gate_models:linear"\nattack = ["pgd"]\nsweep = [0.1]\nbounds = [0, 1]\n'
    )
    words = ["gate", "robust.safetensors", "--spec", "model/gate.toml", "--quiet"]
    assert cli.main(words) == 3, "200 samples cannot certify .99"
    assert report("model/r.json")["verdict"] == "inconclusive"
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
        ('eps = "8/0"', "`eps` must be a finite number, but got '8/0'"),
        ('eps = "8/255/2"', "`eps` must be a finite number"),
        ('eps = "__import__(1)/2"', "`eps` must be a finite number"),
        ("eps = []", "`eps` must hold at least one number"),
        ("eps = [0.1, -0.1]", "`eps` must be above 0"),
        ("eps = [0.0, 0.0]", "`eps` must be above 0"),
        ("eps = [0.1, 'a']", "`eps` must be a finite number"),
        ("eps = [[0.1], [0.1, 0.2]]", "rows of one length"),
        ("bounds = [[0, 0], [1, 0]]", "low < high"),
        ("bounds = [[0, 0], [1, 1, 1]]", "two lists of one length"),
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


@pytest.mark.parametrize("text", ["8/255", " 8 / 255", "8.0/255"])
def test_a_radius_may_be_a_fraction(text: str) -> None:
    values = {"data": "d.npz", "eps": text, "min_robust_accuracy": "3/4", "sweep": ["4/255", 0.5]}
    read = spec.of_values(spec.gather(None, values))
    assert read.eps == 8 / 255
    assert read.sweep == (4 / 255, 0.5)
    assert read.requirements["min_robust_accuracy"] == 0.75


def test_a_fraction_on_the_command_line_is_that_number() -> None:
    assert run_torch("--eps", "8/80", "--sweep", "0", "1/10", "--report", "r.json") == 0
    assert report()["inputs"]["spec"]["eps"] == 0.1
    assert [point["eps"] for point in report()["curve"]] == [0, 0.1]


@pytest.mark.parametrize("text", ["1/0", "8/", "/255", "8:255", "eps"])
def test_what_is_no_fraction_is_bad_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = run_torch("--eps", text)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    assert code == 2
    assert "eps" in capsys.readouterr().err


def test_radius_and_range_may_be_given_by_feature() -> None:
    table = {"eps": [0.1, "1/5", 0], "bounds": [0, [1, 2, 255]]}
    values = {"data": "d.npz", "min_robust_accuracy": 0.5, **table}
    read = spec.of_values(spec.gather(None, values))
    assert read.eps == read.by_feature == (0.1, 0.2, 0.0)
    assert read.bounds == (0.0, (1.0, 2.0, 255.0))
    assert read.radii == (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    one = spec.of_values(spec.gather(None, {**values, "eps": 1.0}))
    assert one.by_feature is None
    assert one.radii == (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)


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
