"""Every file directly in `benchmarks/` is a command; its libraries stand in folders."""

import importlib
from functools import partial
from pathlib import Path

import pytest

import benchmarks
from benchmarks import pretrain_moves
from benchmarks.runs import problems
from rlhf_tune.tensors import SHIPPED

FOLDER = Path(benchmarks.__file__).parent
QMAP = SHIPPED.with_name("qmap.safetensors")
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


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("agents --on tables --episodes 2 --tables 2 --seeds 1", "Q-learning"),
        ("agents --on runs --runs scripted --steps 20 --seeds 2", "always stay"),
        ("learned_moves --tasks 2 --settings plain", "not ahead"),
        ("intervals --quick", "beyond what is declared: none"),
        pytest.param("verdicts --quick", "False passes: 0 (none)", marks=pytest.mark.slow),
        ("feedback --on annotators --seeds 2", "weighted by reliability"),
        ("latency --past 5 --repeats 2", "GPSampler"),
        (
            f"network {QMAP} --on recorded rates --tasks 2 --trials 3 --live-seeds 1",
            "gain on expected improvement",
        ),
        ("sampler --tasks 2 --seeds 1 --trials 3", "random moves"),
        ("robustness --framework torch --samples 8 --repeats 1", "perturb"),
    ],
    ids=lambda words: words.split()[0] if isinstance(words, str) else words,
)
def test_a_command_prints_a_table(
    words: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = partial(problems.problem, steps=96)
    monkeypatch.setattr(pretrain_moves, "problem", short)  # the runs of learned_moves
    name, *arguments = words.split()
    assert importlib.import_module(f"benchmarks.{name}").main(arguments) == 0
    said = capsys.readouterr().out
    assert shown in said
    assert "nan" not in said


def test_libraries_and_tables_have_folders() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {
        "common",
        "kinds",
        "layers",
        "recorded",
        "runs",
        "studies",
        "tables",
        "verdict",
    }
