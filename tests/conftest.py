"""Shared set-up of the tests."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The tests run side by side, one process a core. With more threads than that the processes wait
# for each other: the smallest networks then take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make core` names packages here that must not be needed: nobody finds them.
_WITHOUT = frozenset(filter(None, os.environ.get("RLHF_TUNE_TEST_WITHOUT", "").split(",")))


class _Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        return None if fullname in _WITHOUT else super().find_spec(fullname, path, target)


if _WITHOUT:
    sys.meta_path[sys.meta_path.index(PathFinder)] = _Finder


@pytest.fixture(scope="session")
def without() -> Callable[[Sequence[str], str], Any]:
    """Runs code in a process that does not find some packages; returns what it prints as JSON."""
    tests = Path(__file__).parent

    def run(packages: Sequence[str], code: str) -> Any:
        path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
        ours = {"RLHF_TUNE_TEST_WITHOUT": ",".join(packages), "PYTHONPATH": path}
        out = subprocess.run(
            [sys.executable, "-c", f"import conftest, json\n{code}"],
            env={**os.environ, **ours},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=tests.parent,
        ).stdout
        return json.loads(out.splitlines()[-1])

    return run


@pytest.fixture
def heard() -> Iterator[Any]:
    """Ctrl-C interrupts, also in a process of pytest-xdist, which is deaf to it; the handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fakes_are_classifiers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of classes that the test's own module defines are measured as they are."""
    from rlhf_tune import frameworks

    @contextmanager
    def lend(model: Any) -> Iterator[Any]:
        yield model

    entry = SimpleNamespace(load=lambda: SimpleNamespace(classifier=lend))
    monkeypatch.setattr(frameworks, "_adapters", lambda: {request.module.__name__: entry})
