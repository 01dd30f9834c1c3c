"""The command line: help, exit codes, and one clear line for each mistake."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from rlhf_tune import cli
from rlhf_tune.demo.settings import Settings
from rlhf_tune.errors import InvalidInputError

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def mnist_like(n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8),
        "y_train": np.arange(n, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8),
        "y_test": np.arange(n, dtype=np.uint8) % 10,
    }


def demo(tmp_path: Path, *words: str) -> int:
    return cli.main(["demo", "--framework", "torch", "--runs-dir", str(tmp_path / "runs"), *words])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rlhf-tune: error: ")
    assert err.count("\n") == 1, "one line"
    return err


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "rlhf-tune demo --framework torch" in text
    assert "default: 0.75" in text
    assert "exit status" in text


@pytest.mark.parametrize("words", [[], ["dance"], ["demo", "--framework", "jax"], ["demo", "-x"]])
def test_usage_errors_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 2
    assert "usage: rlhf-tune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--eps", "8"], "divide by 255"),
        (["--eps", "0"], "above 0"),
        (["--eps", "nan"], "above 0"),
        (["--min-robust-accuracy", "65"], "0.5 means 50 %"),
        (["--trials", "0"], "`--trials` must be at least 1, but got 0"),
        (["--epochs", "0"], "`--epochs`"),
        (["--max-train", "5"], "`--max-train`"),
        (["--seed", "-1"], "`--seed`"),
        (["--name", "../elsewhere"], "`--name`"),
        (["--data", "nowhere.npz"], "nowhere.npz does not exist"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, *words) == 2
    assert says in refused(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_test": None}, "lacks ['y_test']"),
        ({"x_train": np.zeros((40, 64), np.uint8)}, "[N, H, W] or [N, H, W, C]"),
        ({"x_train": np.zeros((40, 8, 8), bool)}, "[N, H, W] or [N, H, W, C]"),
        ({"x_train": np.full((40, 8, 8), 255.0)}, "floats within 0..1"),
        ({"x_train": np.full((40, 8, 8), np.nan)}, "floats within 0..1"),
        ({"x_train": np.full((40, 8, 8), -1, np.int8)}, "integers within 0..255"),
        ({"x_test": np.zeros((40, 9, 9), np.uint8)}, "images of one shape"),
        ({"x_train": np.zeros((9, 8, 8), np.uint8), "y_train": np.zeros(9, int)}, "at least 20"),
        ({"y_train": np.zeros((40, 10))}, "one integer label for each of the 40"),
        ({"y_train": np.zeros(39, int)}, "one integer label for each of the 40"),
        ({"y_train": np.full(40, -1)}, "labels must be within 0..999"),
        ({"y_test": np.full(40, 12)}, "every label of `y_test` must occur"),
        ({"y_test": np.array([{}] * 40)}, "Object arrays cannot be loaded"),
    ],
)
def test_bad_data_is_refused(
    change: Mapping[str, np.ndarray | None],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays = {k: v for k, v in (mnist_like() | dict(change)).items() if v is not None}
    np.savez(tmp_path / "data.npz", **arrays)
    assert demo(tmp_path, "--data", str(tmp_path / "data.npz")) == 2
    assert says in refused(capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_npz_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    assert demo(tmp_path, "--data", str(tmp_path / "data.npz")) == 2
    assert "must be an npz file" in refused(capsys)


def test_a_single_array_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "data.npy", np.zeros((40, 8, 8)))
    assert demo(tmp_path, "--data", str(tmp_path / "data.npy")) == 2
    assert "must be an npz file" in refused(capsys)


def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "runs").write_text("a file, not a folder")
    assert demo(tmp_path) == 2
    assert "must be a folder to write to" in refused(capsys)


def test_a_study_that_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / "study.db").write_bytes(b"not a database" * 100)
    assert demo(tmp_path) == 2
    assert "use --fresh or another --name" in refused(capsys)


def test_a_missing_package_names_the_install_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert demo(tmp_path) == 2
    assert "pip install 'rlhf-tune[demo]'" in refused(capsys)


def test_a_warning_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Settings, console: object, *, fresh: bool) -> bool:
        warnings.simplefilter("always")
        warnings.warn("the study ends here", stacklevel=1)
        return False

    monkeypatch.setattr("rlhf_tune.demo.job.run", run)
    assert demo(tmp_path) == 1
    assert capsys.readouterr().err == "rlhf-tune: warning: the study ends here\n"


def test_the_options_are_those_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = {}

    def run(settings: Settings, console: object, *, fresh: bool) -> bool:
        seen.update(settings=settings, fresh=fresh)
        return True

    monkeypatch.setattr("rlhf_tune.demo.job.run", run)
    words = "demo --framework torch --data d.npz --trials 3 --epochs 2 --eps 0.2 --fresh"
    more = "--min-robust-accuracy 0.4 --max-train 50 --name n --runs-dir r --seed 7"
    assert cli.main(f"{words} {more}".split()) == 0
    expected = Settings("torch", "d.npz", 3, 2, 0.2, 0.4, 50, "n", Path("r"), 7)
    assert seen == {"settings": expected, "fresh": True}
    assert cli.main(["demo"]) == 0
    assert seen == {"settings": Settings(), "fresh": False}


def test_settings_check_themselves() -> None:
    with pytest.raises(InvalidInputError, match="--name"):
        Settings(name="")
