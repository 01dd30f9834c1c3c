"""Outcome cards: what people are shown of an item, on a terminal and in a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_tune.errors import plain
from rlhf_tune.printable import markdown

if TYPE_CHECKING:
    from rich.panel import Panel

HEAD = "| outcome | |"
"""The first line of a card in Markdown."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 24  # of a curve
_LINES = 12  # of a text


@dataclass(frozen=True)
class Card:
    """What is known of an item; names and texts may come from anywhere, and steer no terminal.

    Attributes:
        title: What it is called.
        facts: Values by name: metrics, time, size, parameters.
        curves: Values over training, by name.
        texts: Samples that it produced, by name.
    """

    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, ready to be shown."""
        facts = [(plain(str(name)), _shown(value)) for name, value in self.facts.items()]
        return [*facts, *((plain(str(n)), sparkline(c)) for n, c in self.curves.items() if c)]

    def panel(self) -> Panel:
        """For a terminal."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in self.rows():
            table.add_row(Text(name, "dim"), Text(value))
        texts = [
            Text(f"{plain(name)}: {line}" if n == 0 else line)
            for name, text in self.texts.items()
            for n, line in enumerate(_lines(text))
        ]
        return Panel(Group(table, *texts), title=Text(plain(self.title)), expand=True)

    def markdown(self) -> str:
        """For a browser."""
        lines = [HEAD, "|---|---|"]
        lines += [f"| {markdown(name)} | {markdown(value)} |" for name, value in self.rows()]
        for name, text in self.texts.items():
            quoted = "\n".join(f"    {line}" for line in _lines(text))
            lines += ["", markdown(name), "", quoted]
        return "\n".join(lines)


def sparkline(values: Sequence[float]) -> str:
    """A curve in a line of text, from its first to its last value."""
    finite = [v for v in values if v == v and abs(v) != float("inf")]
    if not finite:
        return "never finite"
    low, high = min(finite), max(finite)
    step = max(1, -(-len(values) // _WIDTH))
    drawn = [
        _BLOCKS[round((v - low) / (high - low or 1) * (len(_BLOCKS) - 1))]
        if v == v and abs(v) != float("inf")
        else "!"
        for v in values[::step]
    ]
    return f"{_shown(values[0])} {''.join(drawn)} {_shown(values[-1])}"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain(str(value))


def _lines(text: str) -> list[str]:
    lines = [plain(line) for line in text.splitlines()]
    return lines if len(lines) <= _LINES else [*lines[:_LINES], "..."]
