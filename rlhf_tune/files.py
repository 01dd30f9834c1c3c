"""Files, written whole or not at all: everything that this package writes goes through here.

A file is written under another name in its folder, brought to the disk, and renamed. Whoever is
killed meanwhile leaves the file of before, or none, and perhaps a hidden one that ends in
`.partial` before its suffix; never a half-written file in the place of a whole one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file; a text as UTF-8.

    Raises:
        OSError: If it cannot be written; then what was there is as it was.
    """
    write_all({Path(path): content.encode() if isinstance(content, str) else content})


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write files; they take their places in order, once all of them are on the disk.

    Raises:
        OSError: If one cannot be written; then all places are as they were. If one cannot be
            renamed, those before it are new.
    """
    partials = {path: _partial_of(path) for path in contents}
    try:
        for path, content in contents.items():
            partials[path].unlink(missing_ok=True)  # of a process with this number, long killed
            with partials[path].open("xb") as file:  # never through a link that somebody left
                file.write(content)
            _flush(partials[path])
        for path, partial in partials.items():
            _settle(partial, path)
    except BaseException:
        _remove(partials.values())
        raise


@contextmanager
def whole(path: str | os.PathLike[str], *, older: Path | None = None) -> Iterator[Path]:
    """A place to write to, whose file takes that of `path` when the block ends without an error.

    Args:
        path: Where the file belongs.
        older: Where the one that was there goes; by default it is replaced.

    Raises:
        OSError: If it cannot be written; then what was there is as it was.
    """
    path = Path(path)
    partial = _partial_of(path)
    try:
        partial.unlink(missing_ok=True)
        yield partial
        _flush(partial)
        if older is not None and path.exists():
            path.replace(older)
        _settle(partial, path)
    except BaseException:
        _remove([partial])
        raise


def clear(path: Path) -> None:
    """Remove what killed processes left of a file; for files that one process at a time writes."""
    _remove(path.parent.glob(f".{path.stem}.*.partial{path.suffix}"))


def _partial_of(path: Path) -> Path:
    """The name under which this process writes a file: hidden, and with the same suffix."""
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def _settle(partial: Path, path: Path) -> None:
    """Rename a file that is on the disk, and see that its name is there too."""
    partial.replace(path)
    with suppress(OSError):  # not every file system knows this of folders
        _flush(path.parent)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """See that a file is on the disk; of a folder its names, where the system can."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
