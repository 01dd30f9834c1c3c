"""Questions on a terminal: two cards side by side, and one key for an answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from rlhf_tune.study.comparing import Session

GRADES = {"1": (1.0, 0.0), "2": (0.0, 1.0), "t": (0.5, 0.5), "s": None}
"""Of the left and the right one, by key."""

KEYS = "1 left · 2 right · t tie · s skip · u undo · q quit"


def ask(session: Session, most: int | None = None, *, artifacts: Path | None = None) -> int:
    """Ask until there is nothing to ask, `most` questions are answered, or the person quits.

    Returns:
        How many were answered.
    """
    from rich.console import Console

    console, answered = Console(), 0
    with _keys(sys.stdin) as keys:
        while most is None or answered < most:
            question = session.question()
            if question is None:
                console.print("nothing to compare: every pair was asked, or there are too few")
                break
            began = time.monotonic()
            _show(console, session, question, artifacts)
            key = next((k for k in keys if k in GRADES or k in ("u", "q")), "q")
            if key == "q":
                break
            if key == "u":
                undone = session.undo()
                console.print(f"undone: {undone.items}" if undone else "nothing to undo")
                answered -= undone is not None
                continue
            session.answer(*question, GRADES[key], seconds=time.monotonic() - began)
            answered += 1
    return answered


def _show(
    console: Console,
    session: Session,
    question: tuple[FrozenTrial, FrozenTrial],
    artifacts: Path | None,
) -> None:
    from rich.columns import Columns

    from rlhf_tune.study.comparing import card_of

    cards = [card_of(t, artifacts=artifacts, storage=session.study._storage) for t in question]
    width = max(24, console.width // 2 - 1)
    console.print(Columns([card.panel() for card in cards], width=width, equal=True))
    console.print(f"{session.progress()}   {KEYS}", highlight=False)


@contextmanager
def _keys(stream: TextIO) -> Iterator[Iterator[str]]:
    """The keys that are pressed, without Enter on a terminal; it is as before afterwards."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: keys, then Enter
        yield _characters(stream)
        return
    if not stream.isatty():
        yield _characters(stream)
        return
    before = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream)
        yield _characters(stream)
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)


def _characters(stream: TextIO) -> Iterator[str]:
    """Until the end of the file."""
    while key := stream.read(1):
        yield key.lower()
