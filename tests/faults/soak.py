"""Long studies: does memory grow, do descriptors leak, do suggestions become slower?

    python -m tests.faults.soak --trials 5000 --workers 8 --minutes 10

Prints slopes per thousand trials over the second half; the status is 1 where one is not flat: more
than 10 MB, as Optuna itself keeps each trial in memory (some 5 kB), or a descriptor, or where the
last suggestions take twice as long as those in the middle.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from rlhf_tune import DQNSampler
from rlhf_tune.progress import track

_PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20


class Sample(NamedTuple):
    """Megabytes, descriptors and the milliseconds of CPU that a suggestion takes, at a trial."""

    trial: int
    memory: float
    descriptors: int
    milliseconds: float


def play(study: optuna.Study, trials: int, end: float = math.inf) -> list[Sample]:
    """Run trials until one of the two limits."""
    rng, found = np.random.default_rng(os.getpid()), []
    while len(found) < trials and time.monotonic() < end:
        began = time.process_time()  # others on the machine are not ours
        trial = study.ask()
        rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        size = trial.suggest_int("batch_size", 16, 256, log=True)
        took = 1000 * (time.process_time() - began)
        value = (math.log10(rate) + 2.2) ** 2 + 0.1 * (math.log2(size) - 6) ** 2
        study.tell(trial, value + 0.02 * rng.standard_normal())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no folder of ours
        found.append(Sample(trial.number, pages * _PAGE, descriptors, took))
    return found


def alone(trials: int) -> list[Sample]:
    """One process, in memory."""
    study = optuna.create_study(sampler=DQNSampler(seed=0))
    return [s for _ in track(range(trials), "one process", trials) for s in play(study, 1)]


def together(workers: int, minutes: float) -> list[Sample]:
    """Processes that share a journal, all their samples."""
    with tempfile.TemporaryDirectory() as folder:
        path, end = str(Path(folder) / "journal.log"), time.monotonic() + 60 * minutes
        optuna.create_study(storage=_journal(path), study_name="soak")
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers) as pool:
            parts = pool.starmap(_worker, [(path, end)] * workers)
    return [sample for part in parts for sample in part]


def _worker(path: str, end: float) -> list[Sample]:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = DQNSampler(seed=0)
    study = optuna.load_study(storage=_journal(path), study_name="soak", sampler=sampler)
    return play(study, 10**9, end)


def _journal(path: str) -> Any:
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(path))


def slopes(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Megabytes and descriptors per 1,000 trials, and the last latency over that of the middle."""
    half = np.array(samples[len(samples) // 2 :], dtype=np.float64)
    trials = (half[:, 0] - half[:, 0].mean()) / 1000
    memory, descriptors = (
        float((trials * half[:, c]).sum() / (trials**2).sum()) if len(half) > 1 else math.nan
        for c in (1, 2)
    )
    third = max(1, len(half) // 3)
    return memory, descriptors, float(np.median(half[-third:, 3]) / np.median(half[:third, 3]))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--trials", type=int, default=5000, help="in one process (%(default)s)")
    parser.add_argument("--workers", type=int, default=8, help="on one storage (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of these (%(default)s)")
    args = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    table = Table(
        "soak", "trials", "MB per 1,000", "descriptors per 1,000", "CPU ms", "later / before"
    )
    uneven = 0
    for name, samples in {
        "one process": alone(args.trials),
        f"{args.workers} processes": together(args.workers, args.minutes),
    }.items():
        memory, descriptors, slower = slopes(samples)
        median = float(np.median([s.milliseconds for s in samples]))
        figures = f"{memory:.2f}", f"{descriptors:.2f}", f"{median:.0f}", f"{slower:.2f}"
        table.add_row(name, str(len(samples)), *figures)
        uneven += memory > 10 or descriptors > 1 or slower > 2
    Console().print(table)
    return int(uneven > 0)


if __name__ == "__main__":
    raise SystemExit(main())
