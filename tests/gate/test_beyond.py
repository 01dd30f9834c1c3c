"""What stands around the gate: in-toto statements, studies, MLflow's registry."""

import base64
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from gate_commands import FACTORY, FLOOR, refusal, report, run_torch
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from rlhf_tune import cli
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate.registry import TAG, tag_in_mlflow

pytest.importorskip("torch")
pytest.importorskip("cleverhans")

pytestmark = pytest.mark.usefixtures("_place")


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- in-toto ---


def test_a_statement_is_about_this_file_and_says_what_was_asked() -> None:
    assert run_torch("--report", "r.json", "--attestation", "s.json") == 0
    stated = json.loads(Path("s.json").read_text())
    assert set(stated) == {"_type", "subject", "predicateType", "predicate"}
    assert stated["_type"] == "https://in-toto.io/Statement/v1"
    assert stated["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert stated["subject"] == [
        {"name": "robust.safetensors", "digest": {"sha256": sha256("robust.safetensors")}}
    ]
    said = stated["predicate"]
    assert said["result"] == "PASSED"
    assert said["passedTests"] == ["robust_accuracy"]
    assert said["failedTests"] == []
    by_name = {each["name"]: each for each in said["configuration"]}
    asked = json.loads(base64.b64decode(by_name["rlhf-tune gate spec"]["content"]))
    assert asked == report()["inputs"]["spec"]
    assert by_name["data"]["digest"]["sha256"] == sha256("data.npz")
    assert by_name["report"]["digest"]["sha256"] == sha256("r.json")


def test_a_refusal_is_stated_as_one_and_replaces_an_earlier_pass() -> None:
    assert run_torch("--attestation", "s.json") == 0
    assert run_torch("--attestation", "s.json", model="fragile.safetensors") == 1
    stated = json.loads(Path("s.json").read_text())["predicate"]
    assert (stated["result"], stated["passedTests"]) == ("FAILED", [])
    assert stated["failedTests"] == ["robust_accuracy"]


def test_nothing_is_stated_of_a_file_that_was_not_read() -> None:
    assert run_torch("--attestation", "s.json") == 0
    assert run_torch("--attestation", "s.json", "--report", "r.json", model="none.keras") == 4
    assert not Path("s.json").exists()
    assert Path("r.json").exists()


@pytest.mark.parametrize("content", ["{}", '{"predicateType": 1}', "[]", "mine"])
def test_other_files_are_left_alone(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.json").write_text(content)
    assert run_torch("--attestation", "s.json") == 2
    assert Path("s.json").read_text() == content
    assert "it holds no report of the gate" in refusal(capsys)


def test_two_reports_need_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_torch("--attestation", "r.json", "--report", "./r.json") == 2
    assert "a file of its own" in refusal(capsys)


# --- the recommended model of a study ---


def study_with(*trials: tuple[float, float, dict[str, str]]) -> str:
    """A study of trials given as value, cost of a constraint and user attributes."""
    url = "sqlite:///study.db"
    s = optuna.create_study(study_name="s", storage=url)
    for n, (value, cost, attributes) in enumerate(trials):
        trial = create_trial(
            value=value,
            params={"lr": 10.0 ** -(n + 1)},
            distributions={"lr": FloatDistribution(1e-9, 1.0, log=True)},
            user_attrs=attributes,
        )
        trial.set_constraint("robust_accuracy", cost)
        s.add_trial(trial)
    return url


def gate_study(url: str, *words: str) -> int:
    return cli.main(
        ["gate", "--study", "s", "--storage", url, "--data", "data.npz", *FLOOR, *FACTORY, *words]
    )


def test_the_recommended_model_is_gated_not_the_best_value() -> None:
    url = study_with(
        (0.1, 1.0, {"model": "fragile.safetensors"}),
        (0.2, -1.0, {"model": "robust.safetensors"}),
    )
    assert gate_study(url, "--report", "r.json", "--quiet") == 0
    assert report()["artifact"]["name"] == "robust.safetensors"


@pytest.mark.parametrize(
    ("trials", "why"),
    [
        ([(0.1, -1.0, {"path": "x"})], "must have the user attribute `model`"),
        ([(0.1, 1.0, {"model": "robust.safetensors"})], "no trial satisfies all constraints"),
    ],
)
def test_without_a_model_nothing_passes_and_no_older_report_stays(
    trials: list, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_torch("--report", "r.json") == 0
    assert gate_study(study_with(*trials), "--report", "r.json", "--quiet") == 2
    assert why in capsys.readouterr().err
    assert report()["verdict"] == "untrusted"


def test_a_study_takes_the_place_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", "m.keras", "--study", "s", "--data", "data.npz", *FLOOR]) == 2
    assert "got both" in refusal(capsys)
    assert cli.main(["gate", "--study", "s", "--data", "data.npz", *FLOOR]) == 2
    assert "both --study and --storage" in refusal(capsys)
    assert gate_study("sqlite:///none.db") == 2
    assert "there is no file none.db" in capsys.readouterr().err


# --- MLflow ---


class Registry:
    """What the function uses of `mlflow.MlflowClient`."""

    def __init__(self, **tags: str) -> None:
        self.tags = dict(tags)

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        assert (name, version) == ("shop", "3")
        return SimpleNamespace(tags=dict(self.tags))

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.tags[key] = value

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        del self.tags[key]


def test_a_version_is_tagged_after_a_pass() -> None:
    assert run_torch("--report", "r.json") == 0
    registry = Registry()
    tag_in_mlflow("shop", 3, model="robust.safetensors", report="r.json", client=registry)
    assert registry.tags == {
        TAG: "pass",
        f"{TAG}.sha256": sha256("robust.safetensors"),
        f"{TAG}.report": report()["digest"],
    }


@pytest.mark.parametrize("what", ["another file", "refused", "edited"])
def test_anything_else_takes_the_tag_away(what: str) -> None:
    model = "fragile.safetensors" if what == "refused" else "robust.safetensors"
    run_torch("--report", "r.json", model=model)
    if what == "another file":
        model = "fragile.safetensors"
    if what == "edited":
        Path("r.json").write_text(Path("r.json").read_text().replace("pass", "Pass", 1))
    registry = Registry(**{TAG: "pass"})
    with pytest.raises(InvalidInputError, match="after a pass only"):
        tag_in_mlflow("shop", 3, model=model, report="r.json", client=registry)
    assert registry.tags == {}
