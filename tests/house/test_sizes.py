"""No file over 450 lines, no function over 60: what is longer is not known at a glance."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("rlhf_tune", "integrations", "benchmarks", "examples", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_no_longer_than_a_reader_bears(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    long = {name: lines for name, lines in functions(ast.parse(text)) if lines > 60}
    assert not long


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each function with its lines, a docstring left out: words may be many."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            words = ast.get_docstring(node) is not None
            yield node.name, node.end_lineno - node.lineno + 1 - words * lines_of(first)


def lines_of(node: ast.stmt) -> int:
    return node.end_lineno - node.lineno + 1
