"""What the benchmarks of studies share: their arguments, their tasks, how figures are written."""

from __future__ import annotations

import argparse
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.recorded import tasks
from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError

PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"


def parser(name: str, description: str | None, methods: Iterable[str]) -> argparse.ArgumentParser:
    """The arguments that every comparison of samplers takes."""
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--methods", nargs="+", choices=list(methods), default=list(methods))
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--processes", type=int, default=2, help="studies side by side (2)")
    return result


def add_write(parser: argparse.ArgumentParser) -> None:
    """The argument that asks for what was measured to be put into a page.

    Without a page, that of the command: `docs/benchmarks/<command>.md`.
    """
    page = PAGES / f"{parser.prog.rpartition('.')[2]}.md"
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=page,
        metavar="PAGE",
        help=f"put the tables into this page (docs/benchmarks/{page.name})",
    )


def chosen_tasks(args: argparse.Namespace) -> list[tasks.Task]:
    """The tasks of `--split`, or the random subset of them that `--tasks` asks for."""
    every = tasks.load(args.split)
    if not args.tasks:
        return every
    picked = np.random.default_rng(0).permutation(len(every))[: args.tasks]
    return [every[i] for i in sorted(picked)]


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of independent values [N]; NaN for a single one."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def mean_and_error(per_task: NDArray[np.float64]) -> str:
    """The mean ± its standard error over tasks, each of which is a mean over seeds."""
    return f"{per_task.mean():.3f} ± {standard_error(per_task):.3f}"


def markdown(table: Table) -> str:
    """A table as Markdown, its title in bold above it."""
    title, table.title, table.box = table.title, None, box.MARKDOWN
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    console.print(table)
    table.title = title
    assert isinstance(console.file, io.StringIO)
    lines = re.sub("-{3,}", "---", re.sub(" +", " ", console.file.getvalue())).splitlines()
    return "\n".join([f"**{title}**", "", *(line.strip() for line in lines if line.strip())])


def publish(name: str, head: str, tables: Sequence[Table], page: Path, plot: str = "") -> None:
    """Put tables into the block `name` of a page; a block that is not there is appended.

    Raises:
        InvalidInputError: If the page has the block's beginning but not its end.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    parts = [begin, head, *map(markdown, tables), *([f"![{name}]({plot})"] if plot else []), end]
    text = page.read_text() if page.exists() else ""
    before, found, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if found and not ends:
        raise InvalidInputError(
            f"{begin!r} must be followed by {end!r}, but {page} has no such line"
        )
    lead = before if found else f"{before.rstrip()}\n\n".lstrip()
    files.write(page, lead + "\n\n".join(parts) + (after or "\n"))
