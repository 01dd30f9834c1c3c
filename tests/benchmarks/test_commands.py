"""Every file directly in `benchmarks/` is a command; its libraries stand in folders."""

import importlib
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m benchmarks.{name} ")
    assert command.__doc__.split("\n")[0] in said
    assert (
        (FOLDER / f"{name}.py")
        .read_text()
        .endswith('if __name__ == "__main__":\n    raise SystemExit(main())\n')
    )


def test_libraries_and_tables_have_folders() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {"common", "recorded", "runs", "studies", "tables"}
