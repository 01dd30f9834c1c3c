"""Questions on a terminal: cards side by side, and a key or a few for an answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from rlhf_tune.feedback.judgements import Kind
    from rlhf_tune.study.comparing import Session

KINDS: dict[str, Kind] = {
    "comparisons": "comparison",
    "ratings": "rating",
    "rankings": "ranking",
}
"""What can be asked for."""

HINTS = {
    "comparison": "1 left · 2 right · t tie",
    "rating": "1 worst ... 9 best",
    "ranking": "the numbers of the cards, the best first",
}
"""The keys of an answer."""

_KEYS = "s skip · u undo · q quit"
_GRADES = {"1": (1.0, 0.0), "2": (0.0, 1.0), "t": (0.5, 0.5)}
_RANKED = 4  # cards that fit side by side

Answer = tuple[float, ...] | str
"""Grades, or one of the keys s, u, q."""


def ask(
    session: Session,
    most: int | None = None,
    *,
    kind: Kind = "comparison",
    artifacts: Path | None = None,
) -> int:
    """Ask until there is nothing to ask, `most` questions are answered, or the person quits.

    Returns:
        How many were answered.
    """
    from rich.console import Console

    console, answered = Console(), 0
    with _keys(sys.stdin) as keys:
        while most is None or answered < most:
            shown = _next(session, kind)
            if shown is None:
                console.print(f"no {kind} is left to ask for, or there are too few trials")
                break
            began = time.monotonic()
            _show(console, session, kind, shown, artifacts)
            said = _answer(console, keys, kind, len(shown))
            if said == "q":
                break
            if said == "u":
                undone = session.undo()
                console.print(f"undone: {undone.items}" if undone else "nothing to undo")
                answered -= undone is not None
                continue
            grades = None if isinstance(said, str) else said
            session.record(kind, shown, grades, seconds=time.monotonic() - began)
            answered += 1
    return answered


def _next(session: Session, kind: Kind) -> Sequence[FrozenTrial] | None:
    if kind == "rating":
        trial = session.to_rate()
        return None if trial is None else [trial]
    return session.question(_RANKED if kind == "ranking" else 2)


def _show(
    console: Console,
    session: Session,
    kind: Kind,
    shown: Sequence[FrozenTrial],
    artifacts: Path | None,
) -> None:
    from rich.columns import Columns

    from rlhf_tune.study.trial_cards import card_of

    cards = [card_of(t, artifacts=artifacts, storage=session.study._storage) for t in shown]
    if kind == "ranking":
        cards = [replace(c, title=f"{n}: {c.title}") for n, c in enumerate(cards, start=1)]
    width = max(24, console.width // len(cards) - 1)
    console.print(Columns([card.panel() for card in cards], width=width, equal=True))
    console.print(f"{session.progress()}   {HINTS[kind]} · {_KEYS}", highlight=False)


def _answer(console: Console, keys: Iterator[str], kind: Kind, size: int) -> Answer:
    """What a person says; other keys are passed over."""
    if kind == "ranking":
        return _ranking(console, keys, size)
    grades = _GRADES if kind == "comparison" else {str(n): (float(n),) for n in range(1, 10)}
    key = next((k for k in keys if k in grades or k in "suq"), "q")
    return grades.get(key, key)


def _ranking(console: Console, keys: Iterator[str], size: int) -> Answer:
    """The grades of the cards, which are named by their numbers, the best first.

    The last one goes without saying. Undo first takes back what was begun.
    """
    places = [str(n) for n in range(1, size + 1)]
    best_first: list[str] = []
    for key in keys:
        if key == "u" and best_first:
            best_first.clear()
            console.print("again", highlight=False)
        elif key in "suq":
            return key
        elif key in places and key not in best_first:
            best_first.append(key)
            console.print(key, end=" ", highlight=False)
        if len(best_first) == size - 1:
            console.print()
            best_first += set(places) - set(best_first)
            return tuple(float(size - 1 - best_first.index(place)) for place in places)
    return "q"


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
