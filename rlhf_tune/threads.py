"""Keeps small computations to one thread."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from functools import cache

from threadpoolctl import ThreadpoolController

_LOCK = threading.RLock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP to one thread meanwhile, and restore them; also a decorator.

    Threads cost computations of milliseconds more than they give: while both cores of a machine
    were training, they waited for each other, and a suggestion took ten times as long. The lock
    keeps two studies in one process from restoring each other's setting.
    """
    with _LOCK, _controller("torch" in sys.modules).limit(limits=1):
        yield


@cache
def _controller(torch_is_loaded: bool) -> ThreadpoolController:  # noqa: ARG001 - the key
    """The libraries loaded by now; looking for them takes too long to do it every time."""
    return ThreadpoolController()
