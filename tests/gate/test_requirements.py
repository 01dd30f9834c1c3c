"""One row of a requirement gives the key, the option, the help, the checks and the verdict."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_models import EPS, ROBUST, X, save_data, save_safetensors

from rlhf_tune import cli
from rlhf_tune.gate import requirements
from rlhf_tune.gate.requirements import Evidence
from rlhf_tune.gate.rows import SHARE, Row
from rlhf_tune.safety import Constraint, constraint

pytest.importorskip("torch")

WEIGHT = np.arange(len(X)) / len(X)


def mean_weight(ceiling: float, evidence: Evidence) -> Iterator[Constraint]:
    weights = evidence.samples.arrays["weight"]
    yield constraint("mean_weight", lambda _: float(weights.mean()), at_most=ceiling)


ROW = Row(
    "max_weight", SHARE, "ceiling of the mean weight", "W", build=mean_weight, arrays=("weight",)
)


@pytest.fixture(autouse=True)
def _one_row_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "REQUIREMENTS", (*requirements.REQUIREMENTS, ROW))
    monkeypatch.chdir(tmp_path)
    save_data(Path("data.npz"), weight=WEIGHT)
    save_safetensors(Path("m.safetensors"), ROBUST)


def run(*words: str) -> tuple[int, Any]:
    given = ["--data", "data.npz", "--eps", str(EPS), "--min-robust-accuracy", "0.8"]
    more = ["--factory", "gate_models:linear", "--sweep", "0", "--quiet", "--report", "r.json"]
    code = cli.main(["gate", "m.safetensors", *given, *more, *words])
    return code, json.loads(Path("r.json").read_text())


def test_the_help_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["gate", "--help"])
    assert "--max-weight W        ceiling of the mean weight" in capsys.readouterr().out


def test_the_option_decides() -> None:
    code, report = run("--max-weight", "0.6")
    assert (code, report["inputs"]["spec"]["max_weight"]) == (0, 0.6)
    assert report["requirements"][-1]["name"] == "mean_weight"
    assert report["requirements"][-1]["value"] == WEIGHT.mean()
    assert run("--max-weight", "0.4")[0] == 1


def test_the_spec_file_decides() -> None:
    Path("gate.toml").write_text("max_weight = 0.4\n")
    assert run("--spec", "gate.toml")[0] == 1
    assert run("--spec", "gate.toml", "--max-weight", "0.6")[0] == 0


def test_a_choice_of_samples_takes_the_rows_of_further_arrays() -> None:
    _, report = run("--max-weight", "0.6", "--max-samples", "100")
    chosen = np.sort(np.random.default_rng(0).choice(len(X), 100, replace=False))
    assert report["requirements"][-1]["value"] == WEIGHT[chosen].mean()


def test_what_is_not_asked_is_neither_read_nor_measured() -> None:
    save_data(Path("data.npz"))
    code, report = run()
    assert (code, report["inputs"]["spec"]["max_weight"]) == (0, None)
    assert [row["name"] for row in report["requirements"]] == ["robust_accuracy"]


@pytest.mark.parametrize(
    ("value", "weight", "says"),
    [
        ("60", WEIGHT, "`max_weight` must be within (0, 1), but got 60; 0.5 means 50 %"),
        ("0.6", None, "must hold the arrays ['weight']"),
        ("0.6", WEIGHT[:9], "`weight` must hold one entry for each of the 200 samples"),
        ("0.6", np.float64(1), "but got the shape ()"),
    ],
)
def test_what_breaks_a_rule_is_2(value: str, weight: Any, says: str) -> None:
    save_data(Path("data.npz"), weight=weight)
    code, report = run("--max-weight", value)
    assert code == 2
    assert says in report["error"]
