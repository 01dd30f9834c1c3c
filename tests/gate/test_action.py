"""The GitHub Action's own steps, run by bash as a runner runs them, and the pre-commit hook."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gate_models import EPS

from rlhf_tune.gate.annotations import lines, main

pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "integrations" / "github-action"
HOOKS = ROOT / ".pre-commit-hooks.yaml"

pytestmark = pytest.mark.usefixtures("_place")

SPEC = f"""\
data = "data.npz"
eps = {EPS}
min_robust_accuracy = 0.8
factory = "gate_models:linear"
"""


def action() -> dict:
    return yaml.safe_load((ACTION / "action.yml").read_text())


def step(folder: Path, **inputs: str) -> tuple[int, str, dict[str, str], str]:
    """Exit status, what the log says, outputs and summary of the action's last step."""
    spec = folder / "gate.toml"
    spec.write_text(SPEC)
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    command = binaries / "rlhf-tune"
    command.write_text(
        f"#!{sys.executable}\nfrom rlhf_tune.cli.main import main\nraise SystemExit(main())\n"
    )
    command.chmod(0o755)
    (binaries / "python").unlink(missing_ok=True)
    (binaries / "python").symlink_to(sys.executable)
    found = {name: each.get("default", "") for name, each in action()["inputs"].items()}
    found.update(inputs)
    last = action()["runs"]["steps"][-1]
    given = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: found[m[1]], value)
        for name, value in last["env"].items()
    }
    out, summary = folder / "out", folder / "summary"
    out.write_text("")
    summary.write_text("")
    code = "import sys; sys.path[:0] = %r" % [p for p in sys.path if p]
    (folder / "sitecustomize.py").write_text(code)
    environment = {
        **os.environ,
        **given,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parent}",
        "GITHUB_ACTION_PATH": str(ACTION),
        "GITHUB_OUTPUT": str(out),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", last["run"]],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    outputs = dict(line.split("=", 1) for line in out.read_text().splitlines())
    return done.returncode, done.stdout + done.stderr, outputs, summary.read_text()


def test_a_pass_and_a_refusal(tmp_path: Path) -> None:
    code, said, outputs, summary = step(tmp_path, model="robust.safetensors")
    assert code == 0, said
    assert outputs["verdict"] == "pass"
    assert outputs["exit-code"] == "0"
    assert len(outputs["sha256"]) == 64
    assert "::notice file=gate.toml,title=gate%3A robust.safetensors::passed" in said
    assert "Deployment gate" in summary
    stated = json.loads((tmp_path / "gate-report" / "gate.intoto.json").read_text())
    assert stated["predicate"]["result"] == "PASSED"
    assert stated["subject"][0]["digest"]["sha256"] == outputs["sha256"]
    code, said, outputs, summary = step(tmp_path, model="fragile.safetensors")
    assert (code, outputs["verdict"], outputs["exit-code"]) == (1, "refused", "1")
    assert "::error file=gate.toml,title=fragile.safetensors%3A robust_accuracy::" in said


@pytest.mark.parametrize(
    "model",
    ["$(touch hacked).keras", "a'; touch hacked; '", "--help", "x\n::set-output name=a::b"],
)
def test_inputs_are_never_code(tmp_path: Path, model: str) -> None:
    code, said, outputs, _ = step(tmp_path, model=model)
    assert code in (2, 4)
    assert outputs["exit-code"] == str(code)
    assert outputs.get("verdict") != "pass"
    assert not (tmp_path / "hacked").exists()
    assert not any(line.startswith("::set-output") for line in said.splitlines())


def test_nothing_of_an_expression_stands_in_a_script() -> None:
    for each in action()["runs"]["steps"]:
        assert "${{" not in each["run"]
    assert "${{" not in (ACTION / "gate.sh").read_text()


def test_outputs_and_inputs_of_the_action_are_those_of_the_script() -> None:
    told = action()["outputs"]
    script = (ACTION / "gate.sh").read_text()
    assert all(f"{name}=" in script for name in told)
    read = set(re.findall(r"\$([A-Z]+)\b", script)) | set(re.findall(r"\$\{([A-Z]+)", script))
    assert set(action()["runs"]["steps"][-1]["env"]) == read - {"PYTHON"}


def test_annotations_cannot_be_broken_out_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    row = {"name": "a,b:c\n::error::x", "outcome": "refused", "remark": "50%\r\n::warning::y"}
    document = {
        "artifact": {"name": "m\n::notice::z", "sha256": None},
        "error": "first\nsecond",
        "requirements": [row, {"name": "n", "outcome": "untrusted", "remark": None}],
        "verdict": "refused",
    }
    shown = list(lines(document, "folder,a:b/gate.toml"))
    assert [line.count("\n") + line.count("\r") for line in shown] == [0, 0, 0]
    assert shown[1] == (
        "::error file=folder%2Ca%3Ab/gate.toml,title=m%0A%3A%3Anotice%3A%3Az%3A a%2Cb%3Ac%0A%3A%3A"
        "error%3A%3Ax::50%25 ::warning::y"
    )
    assert shown[2].startswith("::warning ")
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("::error title=")


def test_the_hook_is_one_that_pre_commit_takes() -> None:
    pytest.importorskip("pre_commit")
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", str(HOOKS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    [hook] = yaml.safe_load(HOOKS.read_text())
    assert hook["entry"] == "rlhf-tune gate"
    assert not hook["pass_filenames"]  # the gate takes one model
