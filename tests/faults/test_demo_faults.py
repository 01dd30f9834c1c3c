"""The demo: one process at a time for a name, and no unforeseen end with a verdict's status."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cleverhans")
pytest.importorskip("filelock")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from rlhf_tune import cli
from rlhf_tune.demo import data, job
from rlhf_tune.demo.lock import alone
from rlhf_tune.errors import UNFORESEEN, InvalidInputError

HOLD = (
    "import sys, time; from pathlib import Path; from rlhf_tune.demo.lock import alone\n"
    "with alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
)


def command(runs: Path, *words: str) -> list[str]:
    small = "--framework torch --trials 1 --epochs 1 --max-train 60 --min-robust-accuracy 0"
    return ["demo", *small.split(), "--runs-dir", str(runs), *words]


def test_a_second_process_of_a_name_is_told_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "demo"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "demo" / "summary.json").write_text("the first one's")
        for words in ([], ["--fresh"]):
            assert cli.main(command(tmp_path, *words)) == 2
            assert f"but process {holder.pid} does" in capsys.readouterr().err
        assert (tmp_path / "demo" / "summary.json").read_text() == "the first one's"
    finally:
        holder.kill()
        holder.communicate()
    with alone(tmp_path / "demo"):  # what a killed process held is free
        assert (tmp_path / ".demo.owner").read_text() == str(os.getpid())


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(tmp_path):
            raise ZeroDivisionError


def test_no_damage_to_the_data_is_a_verdict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {k: rng.random((40, 8, 8)) if k[0] == "x" else np.arange(40) % 3 for k in data.KEYS}
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays)
    whole = path.read_bytes()
    for position in range(0, len(whole) - 4, 97):
        path.write_bytes(whole[:position] + b"\xff" * 4 + whole[position + 4 :])
        try:
            data.load(str(path), max_train=20)
        except InvalidInputError:
            continue
    for length in range(0, len(whole) - 1, 997):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidInputError):
            data.load(str(path), max_train=20)


def test_what_nobody_foresaw_has_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "_write", fails)
    assert cli.main(command(tmp_path)) == UNFORESEEN
