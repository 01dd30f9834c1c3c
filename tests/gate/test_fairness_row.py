"""The gate refuses a file whose model treats groups too differently."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_models import EPS, bias, save_data

from rlhf_tune import cli

pytest.importorskip("torch")

RNG = np.random.default_rng(2)
N = 1200
X = RNG.random((N, 4)).astype(np.float32)
Y = (np.arange(N) % 2).astype(np.int64)
X[:, 0] = np.where(Y == 1, 0.9, 0.1)
OLD = np.where(RNG.random(N) < 0.5, "old", "young")
X[:, 1] = np.where(OLD == "old", 0.9, 0.1)
SEX = np.where(RNG.random(N) < 0.5, "f", "m")


def save_model(of_age: float) -> None:
    """Weighs the first input, and the one that tells the age, which outweighs it from 4 on."""
    from gate_models import linear
    from safetensors.torch import save_file
    from torch import from_numpy, no_grad

    w = np.zeros((4, 2), np.float32)
    w[0, 1], w[1, 1] = 4.0, of_age
    w -= w.mean(axis=1, keepdims=True)
    model = linear()
    with no_grad():
        model.weight.copy_(from_numpy(w.T.copy()))
        model.bias.copy_(from_numpy(bias(w)))
    save_file(model.state_dict(), "m.safetensors")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_data(Path("data.npz"), x=X, y=Y, age=OLD, sex=SEX)


def run(*words: str, groups: tuple[str, ...] = ("--groups", "age", "sex")) -> tuple[int, Any]:
    given = ["--data", "data.npz", "--eps", str(EPS), "--min-robust-accuracy", "0.3"]
    more = ["--factory", "gate_models:linear", "--sweep", "0", "--quiet", "--report", "r.json"]
    code = cli.main(["gate", "m.safetensors", *given, *more, *groups, *words])
    return code, json.loads(Path("r.json").read_text())


def row(report: Any) -> Any:
    return report["requirements"][-1]


def test_a_model_that_goes_by_the_label_alone_passes() -> None:
    save_model(0.0)
    code, report = run("--max-unfairness", "0.2")
    assert code == 0
    assert row(report)["name"] == "demographic_parity"
    assert row(report)["kind"] == "ceiling"
    assert {"age", "sex", "age x sex"} <= set(row(report)["details"])


def test_a_model_that_goes_by_the_age_is_refused() -> None:
    save_model(5.0)
    code, report = run("--max-unfairness", "0.2", "--min-robust-accuracy", "0.01")
    assert code == 1
    assert row(report)["details"]["age"] == 1
    assert row(report)["details"]["sex"] < 0.1


def test_the_metric_is_an_option_and_a_key() -> None:
    save_model(0.0)
    Path("gate.toml").write_text('max_unfairness = 0.2\nunfairness_metric = "equal_opportunity"\n')
    code, report = run("--spec", "gate.toml")
    assert (code, row(report)["name"]) == (0, "equal_opportunity")
    code, report = run("--spec", "gate.toml", "--unfairness-metric", "equalized_odds")
    assert (code, row(report)["name"]) == (0, "equalized_odds")
    code, report = run("--max-unfairness", "0.2", "--unfairness-metric", "parity")
    assert code == 2
    assert "`unfairness_metric` must be one of" in report["error"]


def test_too_few_samples_are_no_pass() -> None:
    save_model(0.0)
    code, report = run("--max-unfairness", "0.02")
    assert code == 3
    assert "groups that are treated alike could lie" in report["error"]


def test_without_groups_or_with_other_labels_it_is_bad_usage() -> None:
    save_model(0.0)
    code, report = run("--max-unfairness", "0.2", groups=())
    assert code == 2
    assert "`max_unfairness` compares groups, but 'data.npz' has none" in report["error"]
    save_data(Path("data.npz"), x=X, y=np.where(Y == 1, np.arange(N) % 3, 0), age=OLD, sex=SEX)
    code, report = run("--max-unfairness", "0.2")
    assert code == 2
