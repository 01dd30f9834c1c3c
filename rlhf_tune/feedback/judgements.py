"""Judgements of people, and the log that they are appended to."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError

Kind = Literal["comparison", "rating", "ranking", "skip", "undo"]
KINDS = ("comparison", "rating", "ranking", "skip", "undo")

MODEL = "model"
"""The role of judgements that a reward model made; models do not learn from them."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Judgement:
    """What one person said of one or more items.

    Attributes:
        kind: What was asked. "skip" gives no answer, "undo" takes an earlier judgement back.
        items: Numbers of trials, in the order in which they were shown, the left one first.
        grades: One number an item, the larger the better: (1, 0), (0, 1) or, for a tie, (0.5, 0.5)
            of a comparison; the rating; of a ranking any numbers in its order. Empty for the rest.
        annotator: Who judged.
        role: As what: "user", "expert", or "model" for a reward model's own labels.
        time: When, in ISO 8601 with the offset of the time zone.
        seconds: How long it took.
        context: For what use, such as "edge" or "server"; "" for any.
        id: Of the judgement.
        undoes: The id that "undo" takes back.
    """

    kind: Kind
    items: tuple[int, ...] = ()
    grades: tuple[float, ...] = ()
    annotator: str = "anonymous"
    role: str = "user"
    time: str = field(default_factory=_now)
    seconds: float = 0.0
    context: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    undoes: str = ""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            InvalidInputError: If it breaks a rule of its kind.
        """
        least = {"comparison": 2, "ranking": 2, "rating": 1}.get(self.kind, 0)
        graded = len(self.grades) == len(self.items) >= least if least else not self.grades
        if self.kind not in KINDS or not graded or len(set(self.items)) < len(self.items):
            raise InvalidInputError(
                f"a judgement must be one of {list(KINDS)} with a grade for each of its different "
                f"items, none for the last two, but got kind={self.kind!r}, items={self.items}, "
                f"grades={self.grades}"
            )
        if not all(math.isfinite(number) for number in (*self.grades, self.seconds)):
            raise InvalidInputError(
                f"grades and seconds must be finite, but got {self.grades}, {self.seconds}"
            )

    @classmethod
    def preferring(cls, preferred: int, rejected: int, **about: Any) -> Judgement:
        """A comparison by its outcome; `about` are further attributes."""
        return cls("comparison", (preferred, rejected), (1.0, 0.0), **about)

    def answers(self) -> Iterator[tuple[int, int, float]]:
        """(left, right, answer): 1 where left is preferred, 0 where right is, .5 for a tie.

        A ranking is all pairs of its items; ratings are no comparisons.
        """
        if self.kind not in ("comparison", "ranking"):
            return
        for i, left in enumerate(self.items):
            for right, grade in zip(self.items[i + 1 :], self.grades[i + 1 :], strict=True):
                apart = self.grades[i] - grade
                yield left, right, 0.5 if apart == 0 else float(apart > 0)

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        """(preferred, rejected, weight): a tie is both ways, with weight .5."""
        for left, right, answer in self.answers():
            if answer > 0:
                yield left, right, answer
            if answer < 1:
                yield right, left, 1 - answer


class JudgementLog:
    """A file of judgements, one a line of JSON, that is appended to and never rewritten.

    Each is on the disk before `append` returns. A line that a kill has torn is passed over: it is
    a judgement that was never confirmed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, *judgements: Judgement) -> None:
        """Write judgements to the end, in one piece."""
        lines = "".join(json.dumps(asdict(j), ensure_ascii=False) + "\n" for j in judgements)
        # Unbuffered and to the end: writers side by side do not meet.
        with self.path.open("ab+", buffering=0) as file:
            if file.tell() and not _ends_whole(file):
                lines = "\n" + lines
            file.write(lines.encode())
            os.fsync(file.fileno())

    def records(self) -> list[Judgement]:
        """Everything that was ever written, in order; each id once.

        Raises:
            InvalidInputError: If a whole line is no judgement.
        """
        if not self.path.exists():
            return []
        found: dict[str, Judgement] = {}
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                table = json.loads(line) if line.strip() else None
            except ValueError:  # torn by a kill
                continue
            if table is not None:
                judgement = _judgement(table, f"{self.path}, line {number}")
                found.setdefault(judgement.id, judgement)
        return list(found.values())

    def read(self) -> list[Judgement]:
        """The judgements that stand: without those taken back, "skip" among them."""
        every = self.records()
        undone = {j.undoes for j in every if j.kind == "undo"}
        return [j for j in every if j.kind != "undo" and j.id not in undone]

    def undo(self, judgement: Judgement) -> None:
        """Take a judgement back, by a further line."""
        self.append(
            Judgement(
                "undo", annotator=judgement.annotator, role=judgement.role, undoes=judgement.id
            )
        )


def _ends_whole(file: Any) -> bool:
    """Whether the last line of a file is ended."""
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def export(judgements: Iterable[Judgement], path: str | os.PathLike[str]) -> None:
    """Write judgements to a new file, JSONL or CSV by its suffix, whole or not at all.

    Raises:
        InvalidInputError: If the suffix is another one, or the file holds something else.
    """
    path = _table(path)
    if path.exists() and path.stat().st_size:
        _check_own(path)
    rows = [asdict(j) for j in judgements]
    text = io.StringIO()
    if path.suffix == ".csv":
        writer = csv.DictWriter(text, [f.name for f in fields(Judgement)], lineterminator="\n")
        writer.writeheader()
        joined = ({**r, "items": _joined(r["items"]), "grades": _joined(r["grades"])} for r in rows)
        writer.writerows(joined)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files.write(path, text.getvalue())


def _check_own(path: Path) -> None:
    try:
        load(path)
    except InvalidInputError as exc:
        raise InvalidInputError(
            f"judgements replace judgements alone, but {str(path)!r} holds something else ({exc}); "
            f"choose another path or remove it"
        ) from exc


def load(path: str | os.PathLike[str]) -> list[Judgement]:
    """The judgements of a JSONL or CSV file, as `export` writes them.

    In place of kind, items and grades there may be `preferred` and `rejected`; what is missing of
    the rest has its default.

    Raises:
        InvalidInputError: If the file cannot be read, or a row is no judgement.
    """
    path = _table(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInputError(f"judgements {str(path)!r} cannot be read: {exc}") from exc
    if path.suffix == ".csv":
        rows: Iterable[Any] = csv.DictReader(io.StringIO(text))
    else:
        rows = (_json(line, path, n) for n, line in _numbered(text))
    return [_judgement(row, f"{path}, row {n}") for n, row in enumerate(rows, start=1)]


def _table(path: str | os.PathLike[str]) -> Path:
    if Path(path).suffix not in (".jsonl", ".csv"):
        raise InvalidInputError(
            f"a file of judgements must end in .jsonl or .csv, but got {os.fspath(path)!r}"
        )
    return Path(path)


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip())


def _json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as exc:
        raise InvalidInputError(f"{path}, line {number}, must be JSON, but: {exc}") from exc


def _joined(numbers: Iterable[float]) -> str:
    return " ".join(repr(number) for number in numbers)


def _numbers(value: Any, kind: type) -> tuple[Any, ...]:
    """A list, or a text of numbers with spaces between them, as CSV has it."""
    return tuple(kind(x) for x in (value.split() if isinstance(value, str) else value))


def _judgement(table: Any, where: str) -> Judgement:
    """A row as a judgement; unknown columns are an error, since they may be misspelt ones."""
    known = {f.name for f in fields(Judgement)} | {"preferred", "rejected"}
    if not isinstance(table, Mapping) or not table.keys() <= known:
        raise InvalidInputError(f"{where} must have keys of {sorted(known)}, but got {table!r}")
    given = {key: value for key, value in table.items() if value not in (None, "")}
    try:
        if "preferred" in given:
            given["items"] = (int(given.pop("preferred")), int(given.pop("rejected")))
            given |= {"kind": "comparison", "grades": (1.0, 0.0)}
        given["items"] = _numbers(given.get("items", ()), int)
        given["grades"] = _numbers(given.get("grades", ()), float)
        given["seconds"] = float(given.get("seconds", 0.0))
        return Judgement(**given)
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInputError(f"{where} is no judgement: {exc}") from exc
