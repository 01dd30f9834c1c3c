"""The pages of the benchmarks: one a command, and a summary of what they say."""

import argparse
import re
from pathlib import Path

import pytest

import benchmarks
from benchmarks.common import report

ROOT = Path(benchmarks.__file__).parents[1]
SUMMARY = ROOT / "docs" / "benchmarks.md"
PAGES = sorted(report.PAGES.glob("*.md"))
COMMANDS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}


def test_every_command_has_a_page_that_the_summary_names() -> None:
    assert {page.stem for page in PAGES} == COMMANDS
    for name in COMMANDS:
        assert f"\n- [{name}](benchmarks/{name}.md): " in SUMMARY.read_text()


def test_a_command_knows_its_page() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler")
    report.add_write(parser)
    assert parser.parse_args(["--write"]).write == ROOT / "docs" / "benchmarks" / "sampler.md"
    assert parser.parse_args(["--write", "mine.md"]).write == Path("mine.md")
    assert parser.parse_args([]).write is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_of_a_page_are_the_command_s_and_whole(page: Path) -> None:
    lines = re.findall("^<!-- (begin|end) (.+) -->$", page.read_text(), re.M)
    assert [what for what, _ in lines] == ["begin", "end"] * (len(lines) // 2)
    names = [name for _, name in lines]
    assert names[::2] == names[1::2]
    assert all(name.split("-")[0] == page.stem for name in names)


def test_the_summary_is_short_and_its_figures_are_those_of_the_pages() -> None:
    text = SUMMARY.read_text()
    assert len(text.splitlines()) <= 150
    measured = set(re.findall(FIGURE, "".join(page.read_text() for page in PAGES)))
    found = re.findall(FIGURE, text)
    assert len(found) > 100
    assert set(found) <= measured


FIGURE = r"-?\d+\.\d{3} ± \d\.\d{3}"
