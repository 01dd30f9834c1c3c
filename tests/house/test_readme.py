"""README: short, its snippets run as pasted, its figures are those of the benchmarks."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pages
import pytest

README = pages.ROOT / "README.md"
BENCHMARKS = pages.DOCS / "benchmarks"
CLI = "from rlhf_tune.cli.main import main; raise SystemExit(main())"


def test_it_is_short() -> None:
    assert len(pages.prose(README).split()) <= 600
    for block in pages.blocks(README, "python"):
        assert len([line for line in block.text.splitlines() if line.strip()]) <= 15


def test_its_pictures_are_small() -> None:
    shown = re.findall(r"!\[[^\]]+\]\((docs/pictures/[^)]+)\)", README.read_text("utf-8"))
    assert len(shown) == 2
    for picture in (pages.DOCS / "pictures").iterdir():
        assert picture.stat().st_size < 100_000, picture.name


def test_its_picture_of_regret_shows_the_table_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("sklearn", "torch", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(pages.DOCS)
    pictures = import_module("pictures")
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    pictures._save(pictures._regret(), "regret.svg")
    drawn, shown = (f / "regret.svg" for f in (tmp_path, pages.DOCS / "pictures"))
    assert curves(drawn) == curves(shown), "run python docs/pictures.py"


def curves(picture: Path) -> list[float]:
    """Where the lines of a picture go, to a tenth of a point."""
    paths = re.findall(r'<path d="([^"]+)"', picture.read_text("utf-8"))
    return [round(float(n), 1) for path in paths for n in re.findall(r"-?\d+\.?\d*", path)]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_study_runs_as_pasted(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    snippet, _, _ = pages.blocks(README, "python")
    shown, _ = pages.blocks(README, "text")
    pages.assert_like(run(tmp_path, "-c", snippet.text), shown.text, near=0)


def test_the_run_and_the_gate_run_as_pasted(tmp_path: Path) -> None:
    for package in ("sklearn", "torch", "cleverhans", "matplotlib"):
        pytest.importorskip(package)
    _, training, file = pages.blocks(README, "python")
    _, shown = pages.blocks(README, "text")
    pages.assert_like(run(tmp_path, "-c", training.text + file.text), shown.text)
    (session,) = pages.blocks(README, "console")
    (command,) = pages.commands(session.text)
    program, *words = shlex.split(command)
    assert program == "rlhf-tune"
    output = session.text.partition("\n")[2]
    pages.assert_like(run(tmp_path, "-c", CLI, *words), output)


def rows(page: Path) -> list[list[str]]:
    """The cells of every table row of a page."""
    lines = page.read_text("utf-8").splitlines()
    return [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]


def means(page: str, block: str, method: str) -> list[float]:
    """The means in a method's first row of "mean ± error" cells after a title in a block."""
    text = (BENCHMARKS / f"{page}.md").read_text("utf-8")
    begin, _, title = block.partition("/")
    place = text.index(title, text.index(f"<!-- begin {begin} -->"))
    for line in text[place:].splitlines():
        if line.startswith(f"| {method} |"):
            return [float(mean) for mean in re.findall(r"(-?\d+\.\d+) ±", line)]
    raise AssertionError(f"{page} has no row {method!r} after {block!r}")


ALONE, KINDS = "sampler-test", "sampler-kinds-test-all/**regret on all kinds"
SAFE, RUNS, LAYERS = "safety-test", "training_run-test-all", "fine_tuning-digits-mlp"


def of(task: str) -> list[float]:
    """The figures that the pages have for a row of README's table, in its order."""
    ours, gp = (means("sampler", ALONE, method) for method in ("default", "gp"))
    other, gp_other = (means("sampler", KINDS, method) for method in ("default", "gp"))
    safe, tpe, bold = (means("safety", SAFE, name) for name in ("ours", "tpe", "price"))
    run, finder = (means("training_run", RUNS, m) for m in ("default", "lr finder, OneCycle"))
    search, gradual = (
        means("fine_tuning", LAYERS, method) for method in ("search", "gradual unfreezing")
    )
    return {
        "regret after 5 / 20 trials": [ours[0], ours[2], gp[0], gp[2]],
        "the same, nine other kinds of problem": [other[0], other[2], gp_other[0], gp_other[2]],
        "trials below the floor, of 20; regret": [safe[0], safe[2], tpe[0], tpe[2], bold[2]],
        "one run, gap to the best constant rate": [run[0], finder[0]],
        "fine-tuning on 50 labels, accuracy": [search[5], gradual[5]],
    }[task]


def test_its_figures_are_those_of_the_benchmarks() -> None:
    lines = rows(README)
    heading = next(i for i, row in enumerate(lines) if row[:2] == ["task, on test data", "ours"])
    found = lines[heading + 2 : heading + 7]
    assert len(found) == 5
    for task, *cells in found:
        figures = [float(figure) for figure in re.findall(r"\d\.\d{3}", " ".join(cells))]
        assert figures == of(task), task


def test_its_first_sentence_is_true_of_the_test_tasks() -> None:
    assert "Finds in 5 trials" in README.read_text("utf-8")
    ours, tpe = (means("sampler", ALONE, method) for method in ("default", "tpe"))
    after_5, after_20 = ours[0], tpe[2]
    assert after_5 <= after_20
