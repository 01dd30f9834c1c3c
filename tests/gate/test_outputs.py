"""Where reports go: nothing of others is touched, and there is a whole report or none."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from gate_commands import report, run_torch
from gate_models import save_data

from rlhf_tune import cli
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import outputs

torch = pytest.importorskip("torch")
for package in ("cleverhans", "jsonschema", "matplotlib", "safetensors"):
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("_place")

ALL = ("--report", "r.json", "--junit", "r.xml", "--markdown", "r.md")
NAMES = ("r.json", "r.xml", "r.md", "r.png")


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused is refused before a model or samples are read."""

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("this came too late")

    monkeypatch.setattr("rlhf_tune.gate.artifact.ModelFile.read", read)
    monkeypatch.setattr("rlhf_tune.gate.npz.load", read)


MINE = {
    "r.json": [
        b'{"name": "shop"}',
        b"[]",
        b"{",
        b'{"schema": 1}',
        b"\xff",
        b'"rlhf-tune/gate-report/1"',
    ],
    "r.xml": [
        b"<testsuites/>",
        b'<?xml version="1.0"?><testsuites><testsuite name="pytest"/>',
        b"x",
    ],
    "r.md": [b"# My project\n", b"## Deployment gate: how it works\n\nText.\n"],
    "r.png": [b"\x89PNG\r\n\x1a\n", b"no picture"],
}


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, all_ in MINE.items() for content in all_]
)
def test_what_is_no_report_is_neither_overwritten_nor_deleted(
    name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content)
    assert run_torch(*ALL) == 2
    assert Path(name).read_bytes() == content
    assert [path for path in NAMES if Path(path).exists()] == [name], "nothing else was begun"
    says = capsys.readouterr().err
    assert f"a report cannot be written to {name!r}: it holds no report of the gate" in says
    assert "choose another path or remove it" in says


@pytest.mark.usefixtures("_unmeasured")
def test_a_spec_file_cannot_overwrite_either() -> None:
    Path("README.md").write_text("# Mine\n")
    Path("gate.toml").write_text('markdown = "README.md"\n')
    assert run_torch("--spec", "gate.toml", "--report", "r.json") == 2
    assert Path("README.md").read_text() == "# Mine\n"
    assert "no report of the gate" in report()["error"], "the report that may be written says why"


def test_reports_of_before_and_empty_files_are_replaced() -> None:
    assert run_torch(*ALL, model="fragile.safetensors") == 1
    before = {name: Path(name).read_bytes() for name in NAMES}
    assert run_torch(*ALL) == 0
    assert all(Path(name).read_bytes() != content for name, content in before.items())
    for name in NAMES:
        Path(name).write_bytes(b"")
    assert run_torch(*ALL) == 0
    assert report()["verdict"] == "pass"


def test_the_reports_of_the_first_version_are_known_as_such() -> None:
    assert run_torch(*ALL) == 0
    text = Path("r.json").read_text()
    Path("r.json").write_text(text.replace("gate-report/3", "gate-report/1"))
    assert run_torch(*ALL) == 0


def test_a_text_added_to_a_report_is_kept() -> None:
    assert run_torch(*ALL) == 0
    with Path("r.md").open("a") as file:
        file.write("A note of mine.\n")
    assert run_torch(*ALL) == 2
    assert "A note of mine." in Path("r.md").read_text()


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--report", "nowhere/r.json"), "No such file or directory"),
        (("--junit", "folder.xml"), "it is a folder"),
        (("--markdown", "picture.md"), "it is a folder"),
        (("--report", "data.npz/r.json"), "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_anything_runs(
    words: tuple[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.xml").mkdir()
    Path("picture.png").mkdir()
    assert run_torch(*words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_so_is_a_disk_that_takes_nothing(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", full)
    assert run_torch(*ALL) == 2
    assert (
        f"a report cannot be written to 'r.json': {os.strerror(number)}" in capsys.readouterr().err
    )
    assert os.listdir() and not [name for name in NAMES if Path(name).exists()]  # noqa: PT018, PTH208


@pytest.mark.parametrize("fails", range(4))
def test_a_disk_that_fills_up_meanwhile_leaves_no_report_and_no_pass(
    fails: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = outputs.write, []

    def full(_: int) -> None:
        calls.append(len(calls))
        if calls[-1] == fails:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fills_up(contents: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            real(contents)

    monkeypatch.setattr(outputs, "write", fills_up)
    assert run_torch(*ALL) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not [path.name for path in Path().iterdir() if path.name.lstrip(".").startswith("r.")]


@pytest.mark.parametrize("fails", range(1, 5))
def test_no_pass_stands_beside_a_report_that_is_missing(
    fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Path.replace, []

    def broken(path: Path, target: Any) -> Any:
        calls.append(path)
        if len(calls) == fails:
            raise PermissionError(13, "Permission denied")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", broken)
    assert run_torch(*ALL) == 2
    assert not [name for name in NAMES if Path(name).exists()]


def test_files_of_others_beside_it_are_safe(tmp_path: Path) -> None:
    Path("r.json.partial").write_text("mine")
    assert run_torch(*ALL) == 0
    assert Path("r.json.partial").read_text() == "mine"


def test_a_mode_that_others_may_read_is_kept() -> None:
    assert run_torch(*ALL) == 0
    Path("plain").touch()
    assert Path("r.json").stat().st_mode == Path("plain").stat().st_mode


def test_nothing_is_removed_where_one_place_is_refused() -> None:
    outputs.write({Path("r.json"): b""})
    Path("r.md").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"r\.md"):
        outputs.prepare({"report": Path("r.json"), "markdown": Path("r.md")})
    assert Path("r.json").exists()


def test_groups_with_signs_that_steer_a_terminal_are_shown_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import numpy as np

    names = np.where(np.arange(200) % 4 < 2, "\x1b[31mred", "a\u202egnp.exe")
    save_data(Path("data.npz"), groups=names)
    words = ("--eps", "0.1", "--min-robust-accuracy", "0.8", "--factory", "gate_models:linear")
    assert cli.main(["gate", "robust.safetensors", "--data", "data.npz", *words, *ALL]) == 0
    out, err = capsys.readouterr()
    assert r"groups=\x1b[31mred" in out
    for text in (out, err, Path("r.md").read_text()):
        assert "\x1b" not in text
        assert "\u202e" not in text
