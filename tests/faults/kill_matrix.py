"""Kills commands at random moments, starts them again, and counts what was lost.

    python -m tests.faults.kill_matrix --times 50

Each try is a run of its own: it is killed (SIGKILL, with its children) at a random moment of its
work, looked at, started again by the same command, and looked at again at its end. The status is 1
where anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from rlhf_tune.progress import track
from tests.faults.victims import BEGUN, URL, VICTIMS
from tests.servers import postgresql

ROOT = Path(__file__).parents[2]


@dataclass
class Tally:
    """What became of the runs of a victim.

    Attributes:
        tried: Runs that were killed.
        unhurt: Of these, those that ended before the kill came.
        problems: What was lost or unequal, a sentence each.
    """

    tried: int = 0
    unhurt: int = 0
    problems: list[str] = field(default_factory=list)


def tally(name: str, times: int, seed: int = 0) -> Tally:
    """Kill so many runs of a victim; the first, which nobody kills, says what is expected."""
    victim, rng, counted = VICTIMS[name], np.random.default_rng(seed), Tally()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "uninterrupted"
        folder.mkdir()
        began = time.perf_counter()
        process = _started(name, folder)
        began = time.perf_counter()
        expected = _end(process)
        works = time.perf_counter() - began
        for number in track(range(times), name, times):
            folder = Path(home) / f"try-{number}"
            folder.mkdir()
            process = _started(name, folder)
            try:
                process.wait(float(rng.uniform(0, works)))
                counted.unhurt += 1
                process.communicate()
            except subprocess.TimeoutExpired:
                _kill(process)
            counted.problems += _checked(name, folder)
            found = _end(_started(name, folder))
            counted.tried += 1
            counted.problems += _checked(name, folder)
            if victim.equal and found != expected:
                counted.problems.append("its result is not that of an uninterrupted run")
    return counted


def _checked(name: str, folder: Path) -> list[str]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return VICTIMS[name].check(folder)
    except Exception as exc:  # noqa: BLE001 - what cannot be read is lost
        return [f"{type(exc).__name__}: {exc}"]


def _started(name: str, folder: Path) -> subprocess.Popen[str]:
    """A victim at work."""
    paths = [str(ROOT), str(ROOT / "integrations")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.victims", name, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()).strip() != BEGUN:
        if not line:
            raise RuntimeError(f"{name} ended with {process.wait()} before it was at work")
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _end(process: subprocess.Popen[str]) -> str | None:
    out, _ = process.communicate()
    if process.returncode:
        return f"it ended with status {process.returncode}"
    found: str | None = json.loads(out.splitlines()[-1])["digest"]
    return found


def tallies(names: Sequence[str], times: int, seed: int = 0) -> dict[str, Tally]:
    """Of each victim; those that need a server are left out where there is none."""
    found = {}
    with postgresql() as url:
        if url is not None:
            os.environ[URL] = url
        for name in names:
            if "PostgreSQL" in name and url is None:
                print(f"{name}: left out, for PostgreSQL is not installed", file=sys.stderr)
                continue
            found[name] = tally(name, times, seed)
    return found


def table(found: dict[str, Tally]) -> Table:
    """A row for each victim."""
    columns = ("killed", "times tried", "ended before", "survived", "lost")
    result = Table(*columns, title="kill -9 at random moments")
    for name, counted in found.items():
        lost = len(counted.problems)
        survived = counted.tried - min(lost, counted.tried)
        figures = (counted.tried, counted.unhurt, survived, lost)
        result.add_row(name, *map(str, figures))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kill_matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=50, help="runs of each (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args(argv)
    found = tallies(args.only, args.times, args.seed)
    Console().print(table(found))
    for name, counted in found.items():
        for problem in dict.fromkeys(counted.problems):
            print(f"{name}: {problem} ({counted.problems.count(problem)} times)")
    return int(any(counted.problems for counted in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
