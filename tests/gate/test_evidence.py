"""`rlhf-tune gate` on files and models that cannot be read, or not be trusted."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_commands import refusal, report, run, run_torch, verify
from gate_models import ROBUST, save_safetensors

torch = pytest.importorskip("torch")
for package in ("jsonschema", "matplotlib"):
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("_place")


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


def test_a_surprise_is_70_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def surprise(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("never\nthought of")

    monkeypatch.setattr("rlhf_tune.gate.sweep.sweep", surprise)
    assert run_torch("--report", "r.json") == 70
    assert "unexpected ZeroDivisionError: never thought of" in refusal(capsys)
    assert report()["artifact"]["sha256"] is not None
    assert (report()["verdict"], report()["exit_code"]) == ("untrusted", 70)


def test_the_traceback_of_a_surprise_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def surprise(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("never thought of")

    monkeypatch.setattr("rlhf_tune.gate.sweep.sweep", surprise)
    monkeypatch.setenv("RLHF_TUNE_DEBUG", "1")
    assert run_torch() == 70
    assert "in surprise" in capsys.readouterr().err


@pytest.mark.parametrize("surprise", [MemoryError(), RecursionError("deep"), OSError(28, "full")])
def test_verify_and_the_other_commands_have_no_verdict_s_status_either(
    surprise: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise surprise

    monkeypatch.setattr("rlhf_tune.gate.command.verify", fail)
    assert verify("robust.safetensors") == 70
    assert f"unexpected {type(surprise).__name__}" in refusal(capsys)
    monkeypatch.setattr("rlhf_tune.gate.command.verify_file", fail)
    assert verify("robust.safetensors") == 70
    assert f"unexpected {type(surprise).__name__}" in refusal(capsys)


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
