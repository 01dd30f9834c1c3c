"""Silence for native libraries that write past Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_stderr_dropped() -> Iterator[None]:
    """Drop what TensorFlow's native code says of missing GPUs; exceptions pass as ever."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # later on
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
