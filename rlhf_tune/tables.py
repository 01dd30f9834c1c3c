"""Tables of results: text for a terminal, HTML for a notebook, a DataFrame for further work."""

from __future__ import annotations

import html
import importlib
import io
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from rlhf_tune.errors import MissingExtraError, plain

_WIDTH = 120  # of text that goes to no terminal


@final
@dataclass(frozen=True)
class Table:
    """Rows of values under names; whatever text they hold is shown as text, never as markup.

    Attributes:
        columns: Their names.
        rows: A value for each column, as it is: numbers are rounded where they are shown.
        title: What the table is of.
        notes: Sentences below it.
        shown: So many rows are shown at most; a DataFrame has all.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    notes: Sequence[str] = ()
    shown: int = 20

    def to_text(self, width: int | None = None, rows: int | None = None) -> str:
        """Lines of text without trailing spaces.

        Args:
            width: In columns; default that of the terminal.
            rows: At most so many of them; default `shown`.
        """
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name, column in zip(self.columns, self._by_column(), strict=True):
            numbers = all(_is_number(value) or value is None for value in column)
            drawn.add_column(
                Text(plain(name)), justify="right" if numbers else "left", overflow="fold"
            )
        shown = self.shown if rows is None else rows
        for row in self.rows[:shown]:
            drawn.add_row(*(Text(cell(value)) for value in row))
        file = io.StringIO()
        columns = width or shutil.get_terminal_size((_WIDTH, 24)).columns
        console = Console(file=file, width=columns, color_system=None, legacy_windows=False)
        if self.rows:
            console.print(drawn)
        lines = [line.rstrip() for line in file.getvalue().splitlines()]
        title = [plain(self.title)] if self.title else []
        return "\n".join([*title, *lines, *map(plain, self._notes(shown))])

    def to_html(self) -> str:
        """A `<table>`, its text escaped."""
        head = "".join(f"<th>{_escaped(name)}</th>" for name in self.columns)
        rows = (
            "".join(f"<td>{_escaped(cell(value))}</td>" for value in row)
            for row in self.rows[: self.shown]
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        title = f"<caption>{_escaped(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{_escaped(note)}</p>" for note in self._notes(self.shown))
        table = f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<div>{table}{notes}</div>"

    def to_dataframe(self) -> Any:
        """All rows as a `pandas.DataFrame`.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as exc:
            raise MissingExtraError(
                "`pandas` must be installed for this; run: pip install pandas"
            ) from exc
        return pandas.DataFrame([list(row) for row in self.rows], columns=list(self.columns))

    def _by_column(self) -> list[list[Any]]:
        return [[row[i] for row in self.rows] for i in range(len(self.columns))]

    def _notes(self, shown: int) -> list[str]:
        more = len(self.rows) - shown
        return [*([f"... and {more} more"] if more > 0 else []), *self.notes]


def cell(value: Any) -> str:
    """A value as a short text on one line; nothing where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value) and not isinstance(value, int):
        return f"{value:.4g}"
    return plain(str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _escaped(text: str) -> str:
    return html.escape(plain(text))
