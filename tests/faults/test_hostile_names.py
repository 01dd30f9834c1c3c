"""Names that steer terminals, turn directions or are markup reach no terminal, Markdown or XML."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlhf_tune import cli
from rlhf_tune.demo import report as demo_report
from rlhf_tune.demo.settings import Settings
from rlhf_tune.errors import InvalidInputError, plain, sentence
from rlhf_tune.gate.report import GateReport
from rlhf_tune.printable import markdown
from rlhf_tune.safety import Measurement, fairness_report

EVIL = (
    "\x1b[31m[red]a|b\u202e<script>`x`</script>\x07 "
    "https://evil.example www.evil.example [a](b) @all"
)
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> None:
    assert not STEERS.search(text), ascii(STEERS.search(text))


def harmless_markdown(text: str) -> None:
    harmless(text)
    for markup in ("<script", "](b)", "`x`"):
        assert not re.search(rf"(?<!\\){re.escape(markup)}", text), markup
    assert "://" not in text.replace("\\://", "")
    assert "www.evil" not in text
    assert "@all" not in text


def measured(name: str) -> Measurement:
    return Measurement(
        name=name, value=0.5, bound=0.6, interval=(0.4, 0.6), n=50, kind="floor", cost=0.2
    )


@given(st.text())
def test_a_line_of_markdown_stays_a_line_without_markup(text: str) -> None:
    shown = markdown(text)
    harmless_markdown(shown)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|<\[`*_]", shown)


@given(st.text())
def test_whatever_is_plain_is_xml(text: str) -> None:
    harmless(plain(text))
    element = ElementTree.Element("a", name=plain(text))
    again = ElementTree.fromstring(ElementTree.tostring(element))
    assert again.get("name") == plain(text)


def test_a_report_of_the_gate() -> None:
    report = GateReport([measured(f"robust_accuracy[{EVIL}]")])
    harmless_markdown(report.to_markdown())
    harmless(report.to_junit())
    names = [
        case.get("name") for case in ElementTree.fromstring(report.to_junit()).iter("testcase")
    ]
    assert names == [f"robust_accuracy[{plain(EVIL)}]"]


def test_a_report_of_an_error() -> None:
    report = GateReport(error=sentence(InvalidInputError(EVIL)), error_code=2)
    harmless_markdown(report.to_markdown())
    harmless(report.to_junit())


def test_a_report_of_fairness() -> None:
    groups = np.where(np.arange(200) % 2, EVIL, "b")
    found = fairness_report(np.arange(200) % 3 > 0, np.arange(200) % 5 > 1, {EVIL: groups})
    harmless_markdown(found.to_markdown())
    rows = [line for line in found.to_markdown().split("\n") if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert len(cells) <= 2, "a name adds no column"


def test_a_summary_of_the_demo() -> None:
    summary: dict[str, Any] = {
        "name": EVIL,
        "verdict": "missed",
        "reason": EVIL,
        "settings": Settings().fixed | {"trials": 1, "data": EVIL},
        "data": {"train": 1, "validation": 1, "test": 1},
        "test": None,
        "trials": [],
        "recommended": None,
        "versions": {},
        "chosen": None,
        "replayed": None,
        "idle": 0,
    }
    harmless_markdown(demo_report.markdown(summary).replace("![Trials", "Trials"))
    console = Console(file=io.StringIO(), width=200)
    demo_report.show(summary, Path("runs"), console)
    assert "[red]" in console.file.getvalue(), "a name is no markup of rich"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\0b", "\x1b[31m", "a\nb", "a*"]
)
def test_a_name_of_the_demo_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(InvalidInputError, match="plain folder name"):
        Settings(name=name)


def test_names_of_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(storage=storage, study_name=EVIL)
    study.optimize(lambda t: t.suggest_float("learning_rate", 1e-5, 1e-1, log=True), 8)
    assert cli.main(["pretrain", "--storage", storage, "-o", str(tmp_path / "p.safetensors")]) == 0
    harmless(capsys.readouterr().out)
    assert (
        cli.main(
            ["pretrain", "--storage", storage, "--study", EVIL + "2", "-o", str(tmp_path / "q")]
        )
        == 2
    )
    harmless(capsys.readouterr().err)


def test_names_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = EVIL.replace("/", "")
    words = ["--data", str(tmp_path / name), "--eps", ".1", "--min-robust-accuracy", ".5"]
    assert cli.main(["gate", str(tmp_path / name), *words]) != 0
    harmless(capsys.readouterr().err)


def test_the_picture_of_a_run_shows_dollars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rlhf_tune.plot import plot_run

    history = SimpleNamespace(
        history={"learning_rate": [0.1], "loss": [1.0], "$\\frac$": [0.5]}, knobs=()
    )
    figure = plot_run(history)
    figure.savefig(tmp_path / "a.png")  # as markup it would be no formula, and raise
    labels = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert not [label for label in labels if re.search(r"(?<!\\)\$", label)]
    assert any("frac" in label for label in labels)
