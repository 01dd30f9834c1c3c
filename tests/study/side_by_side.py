"""Worker processes that share a storage, and what they ran at once and again."""

import math
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune import DQNSampler
from tests.study.bowl import objective

NAME = "shared"


def open_storage(url: str, heartbeat: int | None = None) -> BaseStorage:
    """A storage by URL; beside Optuna's own, `journal:FILE` and `grpc:PORT`."""
    kind, _, rest = url.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "journal":
            return JournalStorage(JournalFileBackend(rest))
        if kind == "grpc":
            return GrpcStorageProxy(host="127.0.0.1", port=int(rest))
        return RDBStorage(url, heartbeat_interval=heartbeat, grace_period=heartbeat and 2)


@contextmanager
def shared(url: str, heartbeat: int | None = None) -> Iterator[optuna.Study]:
    """The study behind a URL; connections are closed at the end."""
    storage = open_storage(url, heartbeat)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield optuna.load_study(study_name=NAME, storage=storage, sampler=DQNSampler(seed=0))
    close(storage)


def create(url: str) -> None:
    storage = open_storage(url)
    optuna.create_study(study_name=NAME, storage=storage)
    close(storage)


def close(storage: BaseStorage) -> None:
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def work(url: str, trials: int, seconds: float, noise: float, constrained: bool) -> None:
    """What one worker process does."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(os.getpid())

    def measured(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_user_attr("began", time.time())
        time.sleep(seconds)
        if constrained:
            trial.set_constraint("size", trial.params["batch_size"] - 100.0)
        return value + noise * rng.normal()

    with shared(url) as study:
        study.optimize(measured, n_trials=trials)


def run(
    url: str,
    *,
    workers: int,
    trials: int,
    seconds: float = 0.01,
    noise: float = 0.0,
    constrained: bool = False,
) -> list[FrozenTrial]:
    """The trials of so many worker processes, which start together on a new study."""
    create(url)
    context = multiprocessing.get_context("spawn")
    arguments = (url, trials // workers, seconds, noise, constrained)
    processes = [context.Process(target=work, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with shared(url) as study:
        return study.trials


def pairs(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, FrozenTrial]]:
    """The pairs of trials of one point, the one whose objective began first before the other."""
    begun = sorted(trials, key=lambda t: t.user_attrs["began"])
    return [(a, b) for a, b in combinations(begun, 2) if a.params == b.params]


def at_once(trials: Sequence[FrozenTrial]) -> list[tuple[int, int]]:
    """Those whose objectives ran at the same time."""
    return [(a.number, b.number) for a, b in pairs(trials) if _ended(a) > b.user_attrs["began"]]


def repeated_in_vain(trials: Sequence[FrozenTrial]) -> list[tuple[int, int]]:
    """Those where the later one began when a repetition had already shown that there is no noise.

    What ended after it was asked for it could not know.
    """
    known = min((_ended(b) for _, b in pairs(trials)), default=math.inf)
    asked = [(a, b) for a, b in pairs(trials) if b.datetime_start.timestamp() > known]
    return [(a.number, b.number) for a, b in asked]


def _ended(trial: FrozenTrial) -> float:
    return float(trial.datetime_complete.timestamp())


def die(url: str) -> None:
    """A worker whose process is killed within its objective, as by the system."""

    def deadly(trial: optuna.Trial) -> float:
        objective(trial)
        os.kill(os.getpid(), signal.SIGKILL)
        return math.nan

    warnings.simplefilter("ignore")
    with shared(url, heartbeat=1) as study:
        study.optimize(deadly, n_trials=1)


def check_that_a_killed_trial_comes_back(url: str) -> None:
    create(url)
    with shared(url) as study:
        study.optimize(objective, n_trials=3)
    process = multiprocessing.get_context("spawn").Process(target=die, args=(url,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with shared(url, heartbeat=1) as study:
        assert study.trials[3].state == TrialState.RUNNING
        time.sleep(3.5)  # the grace period of two seconds, by the database's clock of whole ones
        study.optimize(objective, n_trials=2)
        lost, *later = study.trials[3:]
    assert lost.state == TrialState.FAIL
    assert [t.params == lost.params for t in later] == [True, False]


def journal(folder: Path) -> str:
    return f"journal:{folder / 'journal.log'}"
