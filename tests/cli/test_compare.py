"""`rlhf-tune compare` on a pseudo-terminal, as a person uses it, and with files."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.cli.main import main
from rlhf_tune.feedback import JudgementLog
from rlhf_tune.study.preferences import OUTCOMES, answers_of, make_preferential

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    url = f"sqlite:///{tmp_path / 's.db'}"
    made = optuna.create_study(storage=url, study_name="s", sampler=DQNSampler(seed=0))
    make_preferential(made)
    for k in range(6):
        trial = made.ask()
        trial.suggest_float("x", 1e-4, 1, log=True)
        trial.set_user_attr(OUTCOMES, {"accuracy": 0.5 + 0.05 * k, "seconds": float(k % 3)})
    return made


def words(study: optuna.Study, *more: str) -> list[str]:
    url = f"sqlite:///{log_of(study).with_name('s.db')}"
    return ["compare", "--study", "s", "--storage", url, *more]


def log_of(study: optuna.Study) -> Path:
    path = study._storage._backend.engine.url.database
    return Path(path).with_name("s.judgements.jsonl")


def plain(text: str) -> str:
    """Without the colours."""
    return re.sub("\x1b\\[[0-9;]*m", "", text)


class Terminal:
    """A process whose standard streams are a pseudo-terminal."""

    def __init__(self, *command: str) -> None:
        self.master, slave = pty.openpty()
        code = "from rlhf_tune.cli.main import main; raise SystemExit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str, times: int = 1, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while self.seen.count(text) < times:
            assert time.monotonic() < end, self.seen[-2000:]
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> int:
        while True:
            try:
                if not (more := os.read(self.master, 65536)):
                    break
            except OSError:  # the other side is closed
                break
            self.seen += more.decode(errors="replace")
        os.close(self.master)
        return self.process.wait(60)


def test_five_comparisons_on_a_terminal_change_what_is_proposed(study: optuna.Study) -> None:
    before = study.sampler.explain(study)
    terminal = Terminal(*words(study, "--annotator", "ada"))
    for number in range(1, 6):
        terminal.until("q quit", number)
        left, right = re.findall(r"accuracy +([0-9.]+)", plain(terminal.seen))[-2:]
        terminal.press("1" if float(left) > float(right) else "2")
    terminal.until("q quit", 6)
    terminal.press("q")
    assert terminal.end() == 0
    assert "5 answered" in terminal.seen
    assert "judgements of people" in terminal.seen
    written = JudgementLog(log_of(study)).read()
    assert [j.annotator for j in written] == ["ada"] * 5
    assert all(j.seconds > 0 for j in written)
    assert len(answers_of(study).preferences) == 5
    after = study.sampler.explain(study)
    assert before != after


def test_tie_skip_undo_and_other_keys(study: optuna.Study) -> None:
    terminal = Terminal(*words(study))
    for number, key in enumerate(("t", "s", "1", "u", "x2", "q"), start=1):
        terminal.until("q quit", number)
        terminal.press(key)
    assert terminal.end() == 0
    kinds = [(j.kind, j.grades) for j in JudgementLog(log_of(study)).read()]
    assert kinds == [
        ("comparison", (0.5, 0.5)),
        ("skip", ()),
        ("comparison", (0.0, 1.0)),
    ]


def test_ratings_on_a_terminal(study: optuna.Study) -> None:
    terminal = Terminal(*words(study, "--ask", "ratings", "--annotator", "ada"))
    for number, key in enumerate(("0x7", "s", "9", "u", "2", "q"), start=1):
        terminal.until("q quit", number)
        assert len(re.findall("trial [0-9]", plain(terminal.seen))) == number  # a card each
        terminal.press(key)
    assert terminal.end() == 0
    first, second, third = JudgementLog(log_of(study)).read()
    assert [j.kind for j in (first, second, third)] == ["rating", "skip", "rating"]
    assert (first.grades, third.grades) == ((7.0,), (2.0,))
    assert first.annotator == "ada"
    assert first.seconds > 0
    assert len({j.items for j in (first, second, third)}) == 3
    said = {number: grade for _, number, grade in answers_of(study).ratings}
    assert said == {first.items[0]: 7.0, third.items[0]: 2.0}
    assert all(study.trials[number].state.is_finished() for number in said)


def test_ratings_end_when_every_trial_is_rated(study: optuna.Study) -> None:
    terminal = Terminal(*words(study, "--ask", "ratings"))
    for number in range(1, 7):
        terminal.until("q quit", number)
        terminal.press("5")
    assert terminal.end() == 0
    assert "no rating is left to ask for" in terminal.seen
    assert {j.items for j in JudgementLog(log_of(study)).read()} == {(n,) for n in range(6)}


def test_rankings_on_a_terminal_change_what_is_proposed(study: optuna.Study) -> None:
    before = study.sampler.explain(study)
    terminal = Terminal(*words(study, "--ask", "rankings"))
    terminal.until("q quit")
    shown = re.findall("[1-4]: trial ([0-9])", plain(terminal.seen))
    assert len(shown) == 4
    terminal.press("44u")  # begun anew
    terminal.until("again")
    terminal.press("3914")  # and the second is the last one
    terminal.until("q quit", 2)
    terminal.press("s")
    terminal.until("q quit", 3)
    terminal.press("u")  # the skip
    terminal.until("q quit", 4)
    terminal.press("2q")
    assert terminal.end() == 0
    (ranked,) = JudgementLog(log_of(study)).read()
    assert ranked.kind == "ranking"
    assert ranked.items == tuple(map(int, shown))
    assert ranked.grades == (2.0, 0.0, 3.0, 1.0)
    assert len(answers_of(study).preferences) == 6
    assert study.sampler.explain(study) != before


def test_a_ranking_that_is_not_finished_is_none(
    study: optuna.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("12"))
    assert main(words(study, "--ask", "rankings")) == 0
    assert JudgementLog(log_of(study)).read() == []
    assert "judgements of people" in capsys.readouterr().out


def test_a_killed_session_loses_no_answer(study: optuna.Study) -> None:
    terminal = Terminal(*words(study))
    for number in (1, 2):
        terminal.until("q quit", number)
        terminal.press("1")
    terminal.until("q quit", 3)
    terminal.process.send_signal(signal.SIGKILL)
    terminal.end()
    assert len(JudgementLog(log_of(study)).read()) == 2
    again = Terminal(*words(study, "--questions", "1"))
    again.until("2 answered")
    again.press("1")
    assert again.end() == 0
    assert len(JudgementLog(log_of(study)).read()) == 3


def test_keys_may_come_from_a_pipe(
    study: optuna.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.write(write, b"1\n2\n")
    os.close(write)
    with os.fdopen(read) as keys:
        monkeypatch.setattr("sys.stdin", keys)
        assert main(words(study)) == 0
    assert len(JudgementLog(log_of(study)).read()) == 2
    assert "minutes spent" in capsys.readouterr().out


def test_files_go_in_and_out_and_a_report(
    study: optuna.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given.csv"
    given.write_text(
        "preferred,rejected,annotator,role\n5,0,ada,expert\n4,1,ada,expert\n0,5,ben,\n"
    )
    assert main(words(study, "--import", str(given))) == 0
    assert main(words(study, "--export", str(tmp_path / "out.csv"), "--report")) == 0
    said = capsys.readouterr().out
    assert "3 new judgements" in said
    assert "reliability of ben" in said
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0].startswith("kind,items,grades,annotator,role,time")
    assert len(rows) == 4
    assert len(answers_of(study).preferences) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--browser", "--ask", "ratings"], "`--browser` asks for comparisons alone"),
        (["--questions", "0"], "`--questions` must be at least 1"),
        (["--import", "none.csv"], "cannot be read"),
        (["--export", "out.txt"], "must end in .jsonl or .csv"),
    ],
)
def test_mistakes_are_one_sentence(
    study: optuna.Study, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(study, *more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_study_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/n.db"
    assert main(["compare", "--study", "s", "--storage", url]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "n.db").exists()
    optuna.create_study(study_name="other", storage=url)
    assert main(["compare", "--study", "s", "--storage", url]) == 2
    assert "`--study` must be one of `--storage`" in capsys.readouterr().err


def test_the_browser_needs_a_preferential_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna_dashboard")
    url = f"sqlite:///{tmp_path / 'plain.db'}"
    optuna.create_study(storage=url, study_name="s")
    assert main(["compare", "--study", "s", "--storage", url, "--browser"]) == 2
    assert "needs a preferential study" in capsys.readouterr().err
