"""`rlhf-tune pretrain` told nonsense."""

from pathlib import Path

import pytest

from rlhf_tune.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "sqlite:///{}/none.db"], "no file"),
        (["--storage", "nonsense://x"], "URL of an Optuna storage"),
        (["--storage", "sqlite:///{}/none.db", "--study", "x"], "no file"),
        (["--tables", "{}"], "benchmarks.record"),
        (["--tables", "{}", "--study", "x"], "give both"),
        (["--storage", "sqlite:///{}/x.db", "--network", "n.safetensors"], "give `--tables`"),
    ],
)
def test_bad_usage_is_told(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(tmp_path) for argument in arguments]
    assert main(["pretrain", *given, "-o", str(tmp_path / "out.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_the_output_folder_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none" / "x.safetensors"
    assert main(["pretrain", "--storage", "sqlite://", "-o", str(out)]) == 2
    assert "folder that exists" in capsys.readouterr().err
