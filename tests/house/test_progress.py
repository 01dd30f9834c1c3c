"""Bars: on a terminal only, gone afterwards, and plain about names."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from rlhf_tune.progress import bars, track

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def console(terminal: bool, quiet: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, quiet=quiet)


def shown(it: Console, name: str = "training") -> str:
    with bars(it) as progress:
        progress.add_task(name, total=4, completed=1)
        progress.refresh()
    return it.file.getvalue()


def test_a_terminal_shows_a_bar_and_gets_its_cursor_back() -> None:
    text = shown(console(terminal=True))
    assert "training" in text
    assert "1/4" in text
    assert text.index(HIDE) < text.index(SHOW)


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_elsewhere_there_is_nothing(terminal: bool, quiet: bool) -> None:
    assert shown(console(terminal, quiet)) == ""


def test_names_are_not_markup() -> None:
    assert "[/red] [bold]x" in shown(console(terminal=True), "[/red] [bold]x")


def test_an_error_brings_the_cursor_back() -> None:
    it = console(terminal=True)
    with pytest.raises(ZeroDivisionError), bars(it):
        raise ZeroDivisionError
    assert SHOW in it.file.getvalue()


def test_steps_are_passed_on_and_nothing_is_written_off_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_the_gate_loads_the_bars_when_they_are_shown() -> None:
    code = "import sys, rlhf_tune.gate; assert 'rich.progress' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
