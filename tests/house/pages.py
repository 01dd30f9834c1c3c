"""Blocks of code in the papers of the project, and how they are run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"(?:^<!-- given: (?P<given>\w+) -->\n+)?(?:^<!-- not run: (?P<why>.+?) -->\n+)?"
    r"^```+(?:\{code-cell\} )?(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```+$",
    re.M | re.S,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        kind: Its language.
        text: What stands in it.
        line: Of the file, before its first.
        given: The set of `given.SETS` that it takes for granted, or None.
        why: Why it is not run, or None.
    """

    kind: str
    text: str
    line: int
    given: str | None
    why: str | None


def blocks(page: Path, kind: str | None = None) -> list[Block]:
    """The blocks of a page in their order, of one language or of all."""
    return [block for block in _blocks(page.read_text("utf-8")) if kind in (None, block.kind)]


def _blocks(text: str) -> Iterator[Block]:
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        cell = re.sub(r"^(?::\w[^\n]*\n|---\n.*?---\n)+", "", found["text"], flags=re.S)
        yield Block(found["kind"], cell, line, found["given"], found["why"])


def run(block: Block, page: Path, names: dict[str, object]) -> None:
    """Run a block of Python as the page's next; line numbers of tracebacks are the page's."""
    exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


def commands(text: str, prompt: str = r"\$ ") -> list[str]:
    """The commands after a prompt, in one line each, without comments and what they print."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(rf"^{prompt}(.*?)(?:\s+#.*)?$", joined, re.M)
    return [line for line in lines if line]


def prose(page: Path) -> str:
    """A page without its fenced and indented blocks."""
    return re.sub(r"^```.*?^```|^    \S.*?$", "", page.read_text("utf-8"), flags=re.M | re.S)


def assert_like(printed: str, shown: str, near: float = 0.03) -> None:
    """What was printed is what a page shows: the same words, and numbers within `near`.

    A first line "..." stands for any lines, a word "..." for any rest of its line.
    """
    lines, wanted = printed.splitlines(), shown.splitlines()
    if wanted[0] == "...":
        wanted = wanted[1:]
        lines = lines[-len(wanted) :]
    assert len(lines) == len(wanted), printed
    for line, pattern in zip(lines, wanted, strict=True):
        if pattern.endswith(" ..."):
            pattern = pattern.removesuffix("...")
            line = line[: len(pattern)]
        assert _NUMBER.sub("#", line).split() == _NUMBER.sub("#", pattern).split(), line
        for a, b in zip(_numbers(line), _numbers(pattern), strict=True):
            assert abs(a - b) <= near * max(1, abs(b)), line


def _numbers(line: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(line)]
