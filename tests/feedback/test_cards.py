"""Cards: numbers, curves and texts, which steer neither a terminal nor a page."""

import io
import math

from rich.console import Console

from rlhf_tune.feedback.cards import Card, sparkline


def shown(card: Card) -> str:
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    console.print(card.panel())
    return console.file.getvalue()


def test_a_card_has_facts_curves_and_texts() -> None:
    card = Card(
        "trial 3",
        {"accuracy": 0.912345, "size": 12},
        {"loss": [2, 1, 0.5]},
        {"a.txt": "Once\nupon"},
    )
    text = shown(card)
    for part in ("trial 3", "0.9123", "12", "2 █▃▁ 0.5", "a.txt: Once", "upon"):
        assert part in text
    assert "| accuracy | 0.9123 |" in card.markdown()


def test_names_and_texts_steer_nothing() -> None:
    evil = "\x1b[2J[bold red]x[/] <script>alert(1)</script> [a](http://b)"
    card = Card(evil, {evil: evil}, {}, {evil: f"{evil}\u202e"})
    text = shown(card)
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "[bold red]" in text
    page = card.markdown()
    assert "<script>" not in "\n".join(line for line in page.split("\n") if line[:4] != "    ")
    assert "](" not in page.replace("\\](", "").split("    ")[0]


def test_curves_survive_what_is_not_finite() -> None:
    assert sparkline([1.0, math.nan, 3.0]) == "1 ▁!█ 3"
    assert sparkline([math.inf]) == "never finite"
    assert len(sparkline([float(n) for n in range(1000)])) < 40
    assert "▁" in sparkline([2.0, 2.0])


def test_long_texts_are_cut() -> None:
    assert "..." in shown(Card("t", texts={"a": "\n".join("abcdefghijklmnopqrstuvwxyz")}))
