"""The commands as the tests give them, and what they leave behind; run in `_place`."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_models import EPS

from rlhf_tune import cli, gate

FLOOR = ("--eps", str(EPS), "--min-robust-accuracy", "0.8")
FACTORY = ("--factory", "gate_models:linear")


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
    pytest.importorskip("jsonschema").validate(document, gate.schema())
    return document


def verify(model: str, *words: str) -> int:
    return cli.main(["verify", model, "--report", "r.json", *words])
