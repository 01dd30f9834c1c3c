"""Storages of studies, opened to be read: a misspelt one is said so, and never made."""

from __future__ import annotations

import difflib
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.foreign import shortened

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study

_EXAMPLES = "such as sqlite:///study.db, postgresql+psycopg://user@host/name or journal.log"


def add_arguments(parser: Any) -> None:
    """The two options that say which study is looked at."""
    parser.add_argument(
        "--storage", metavar="URL", required=True, help=f"where it is, {_EXAMPLES}; only read"
    )
    parser.add_argument(
        "--study", metavar="NAME", help="its name; may be left out where there is only one"
    )


def load_study(url: str, name: str | None) -> Study:
    """A study of a storage; nothing is written, and no storage is made.

    Raises:
        InvalidInputError: If there is no such storage or study; the message lists those there are.
    """
    import optuna

    storage = opened(url)
    known = study_names(storage)
    if name is None and len(known) == 1:
        name = known[0]
    if name not in known:
        raise InvalidInputError(_no_study(name, known))
    with _said(url):
        return optuna.load_study(study_name=name, storage=storage)


def study_names(storage: BaseStorage) -> list[str]:
    """The names of the studies of a storage."""
    return [study.study_name for study in storage.get_all_studies()]


def opened(url: str) -> BaseStorage:
    """A storage that exists, opened to be read.

    Args:
        url: As Optuna takes it, or the path of a journal.

    Raises:
        InvalidInputError: If it cannot be read.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" not in url and Path(url).is_file():
        with _said(url), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that journals were new
            return JournalStorage(JournalFileBackend(url))
    path = check_there(url)
    with _said(url):
        if path is None:
            server = {"pool_pre_ping": True}
            return RDBStorage(url, skip_table_creation=True, engine_kwargs=server)
        # By a function of our own, since the names that a URL can hold are not those of files.
        more = {"creator": lambda: _reading(path)}
        return RDBStorage(url, skip_table_creation=True, engine_kwargs=more)


def check_there(url: str) -> Path | None:
    """The file of an SQLite storage that holds studies; None for a server.

    Raises:
        InvalidInputError: If there is no such file, or it holds no studies; nothing is made.
    """
    path = _sqlite_file(url)
    if path is None:
        return None
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _files_beside(path), n=3)
        there = f"; did you mean {' or '.join(near)}?" if near else f"; give one {_EXAMPLES}"
        raise InvalidInputError(f"`--storage` must exist, but there is no file {path}{there}")
    with _said(url), closing(_reading(path)) as db:
        found = db.execute("SELECT name FROM sqlite_master WHERE name = 'studies'").fetchall()
    if not found:
        raise InvalidInputError(
            f"`--storage` must be a storage of Optuna, but {path} holds no studies"
        )
    return path


def shown(url: str) -> str:
    """A storage's URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return url


def _sqlite_file(url: str) -> Path | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise InvalidInputError(
            f"`--storage` must be the URL of an Optuna storage, {_EXAMPLES}, but got {url!r}"
        ) from exc
    if parsed.get_backend_name() != "sqlite":
        return None
    name = (parsed.database or "").removeprefix("file:").partition("?")[0]
    if name in ("", ":memory:"):
        raise InvalidInputError(f"`--storage` must name a file, but {url} is in memory alone")
    return Path(name)


def _reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    where = f"{path.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(where, uri=True, check_same_thread=False)


def _files_beside(path: Path) -> list[str]:
    folder = path.parent
    return [each.name for each in folder.iterdir() if each.is_file()] if folder.is_dir() else []


@contextmanager
def _said(url: str) -> Iterator[None]:
    """What a storage raises, as an error of ours."""
    try:
        yield
    except InvalidInputError:
        raise
    except Exception as exc:
        cause = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc  # Optuna wraps it
        raise InvalidInputError(
            f"`--storage` must be the URL of an Optuna storage, {_EXAMPLES}, but {shown(url)!r} "
            f"cannot be read ({type(cause).__name__}: {shortened(cause)})"
        ) from exc


def _no_study(name: str | None, known: Sequence[str]) -> str:
    if not known:
        return "the storage holds no study"
    listed = ", ".join(repr(each) for each in known[:20])
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    if name is None:
        return f"`--study` must say which study; the storage holds {listed}{more}"
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    rule = f"`--study` must name a study of the storage, but got {name!r}{meant}"
    return f"{rule} It holds {listed}{more}" if meant else f"{rule}; it holds {listed}{more}"
