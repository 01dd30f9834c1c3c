"""`rlhf-tune verify`: is this the file that passed?"""

import io
import json
import shutil
from pathlib import Path

import pytest
from gate_commands import refusal, run_torch, verify

torch = pytest.importorskip("torch")
for package in ("jsonschema", "matplotlib"):
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("_place")


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
