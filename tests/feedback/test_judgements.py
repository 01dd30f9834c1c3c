"""The judgement log: appended to, never rewritten, and whole after a kill."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.judgements import Judgement, JudgementLog, export, load


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    log = JudgementLog(tmp_path / "log.jsonl")
    assert log.read() == []
    first = Judgement.preferring(3, 1, annotator="Ada · 阿达", role="expert", seconds=2.5)
    second = Judgement("rating", (4,), (7.0,), context="edge")
    log.append(first)
    log.append(second)
    assert JudgementLog(log.path).read() == [first, second]


def test_undo_is_a_further_line(tmp_path: Path) -> None:
    log = JudgementLog(tmp_path / "log.jsonl")
    kept, gone = Judgement.preferring(0, 1), Judgement.preferring(2, 1)
    log.append(kept, gone)
    before = log.path.read_bytes()
    log.undo(gone)
    assert log.path.read_bytes().startswith(before)
    assert log.read() == [kept]
    assert [j.kind for j in log.records()] == ["comparison", "comparison", "undo"]


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_torn_line_costs_nothing_else(tmp_path: Path, cut: int) -> None:
    log = JudgementLog(tmp_path / "log.jsonl")
    first, torn, later = (Judgement.preferring(n, n + 1) for n in range(3))
    log.append(first)
    log.append(torn)
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    whole = [first, torn] if cut == 1 else [first]  # of one only the end of the line is lost
    assert log.read() == whole
    log.append(later)
    assert log.read() == [*whole, later]


def test_a_line_that_is_no_judgement_is_an_error(tmp_path: Path) -> None:
    log = JudgementLog(tmp_path / "log.jsonl")
    log.path.write_text('{"kind": "comparison", "items": [1], "grades": [1.0]}\n')
    with pytest.raises(InvalidInputError, match="line 1 is no judgement: a judgement must be"):
        log.read()
    log.path.write_text('{"winner": 1}\n')
    with pytest.raises(InvalidInputError, match="must have keys of"):
        log.read()


WRITER = """
import sys
from rlhf_tune.feedback import Judgement, JudgementLog
log = JudgementLog(sys.argv[1])
for n in range(100000):
    log.append(Judgement.preferring(n, n + 1, annotator=sys.argv[2]))
    print(n, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), who], stdout=subprocess.PIPE, text=True
        )
        for who in ("ada", "ben")  # side by side
    ]
    while not path.exists() or path.stat().st_size < 20_000:
        time.sleep(0.01)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
    confirmed = {
        who: len(writer.communicate()[0].splitlines())
        for who, writer in zip(("ada", "ben"), writers, strict=True)
    }
    found = [(j.annotator, j.items) for j in JudgementLog(path).read()]
    assert len(found) == len(set(found))
    for who, n in confirmed.items():
        assert [(who, (k, k + 1)) for k in range(n)] == [f for f in found if f[0] == who][:n]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    given = [
        Judgement.preferring(3, 1, annotator='A, "B"\nC', seconds=1.5),
        Judgement("ranking", (5, 6, 7), (3.0, 1.0, 2.0), role="expert", context="edge"),
        Judgement("rating", (2,), (-0.5,)),
        Judgement("skip", (1, 2)),
        Judgement("undo", undoes="abc"),
    ]
    export(given, path)
    assert load(path) == given
    assert list(tmp_path.iterdir()) == [path]


def test_preferred_and_rejected_are_enough(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("preferred,rejected,annotator\n4,2,ada\n1,3,\n", encoding="utf-8-sig")
    first, second = load(table)
    assert (first.items, first.grades, first.annotator) == ((4, 2), (1.0, 0.0), "ada")
    assert second.annotator == "anonymous"
    lines = tmp_path / "pairs.jsonl"
    lines.write_text(json.dumps({"preferred": 4, "rejected": 2}) + "\n\n")
    assert load(lines)[0].items == (4, 2)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "preferred,rejected\n1,1\n", "row 1 is no judgement"),
        ("a.csv", "preferred,rejectd\n1,2\n", "must have keys of"),
        ("a.csv", "preferred,rejected\n1,two\n", "row 1 is no judgement"),
        ("a.jsonl", "{", "line 1, must be JSON"),
        ("a.jsonl", "[1]", "must have keys of"),
        ("a.txt", "", r"must end in .jsonl or .csv"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=said):
        load(tmp_path / name)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load(tmp_path / "none.csv")


def test_rankings_and_ties_are_pairs() -> None:
    ranking = Judgement("ranking", (7, 8, 9), (2.0, 3.0, 3.0))
    assert list(ranking.pairs()) == [(8, 7, 1.0), (9, 7, 1.0), (8, 9, 0.5), (9, 8, 0.5)]
    assert list(Judgement("comparison", (1, 2), (0.5, 0.5)).answers()) == [(1, 2, 0.5)]
    assert list(Judgement("rating", (1,), (3.0,)).pairs()) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "comparison", "items": (1, 2), "grades": (1.0,)},
        {"kind": "comparison", "items": (1, 1), "grades": (1.0, 0.0)},
        {"kind": "vote", "items": (1, 2), "grades": (1.0, 0.0)},
        {"kind": "skip", "items": (1, 2), "grades": (1.0, 0.0)},
        {"kind": "rating", "items": (1,), "grades": (float("nan"),)},
        {"kind": "rating", "items": (1,), "grades": (1.0,), "seconds": float("inf")},
    ],
)
def test_what_is_no_judgement_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        Judgement(**broken)
