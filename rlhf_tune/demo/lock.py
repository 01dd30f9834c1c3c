"""One process at a time for a run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError, require


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder: two runs of one name would each take the other's trial for a killed one's.

    The system frees it when its owner ends, however that comes about.

    Raises:
        InvalidInputError: If a live process holds it; the message has its number.
    """
    filelock = require("filelock", extra="demo")
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    owner = folder.with_name(f".{folder.name}.owner")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as exc:
        number = owner.read_text() if owner.exists() else "another one"
        raise InvalidInputError(
            f"one process at a time may run {str(folder)!r}, but process {number} does; wait for "
            f"its end, or give another --name"
        ) from exc
    try:
        files.write(owner, str(os.getpid()))
        yield
    finally:
        lock.release()
