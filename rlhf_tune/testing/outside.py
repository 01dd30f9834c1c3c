"""A framework's loop beside a test, so that the test is what drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any
from unittest import mock

from rlhf_tune.run.driving import Driving


@contextmanager
def outside(fit: Callable[[], Any]) -> Iterator[Any]:
    """The trainer of an adapter's `fit`, whose loop waits before its first step.

    Inside, the trainer takes the framework's steps when it is told to; on leaving, the loop ends.

    Args:
        fit: Calls an adapter that drives by `rlhf_tune.run.driving.Driving`.
    """
    trainers: SimpleQueue[Any] = SimpleQueue()
    over = Event()

    def drive(_: Driving, trainer: Any, **__: Any) -> None:
        trainers.put(trainer)
        over.wait()

    def run() -> None:
        try:
            fit()
        except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
            trainers.put(exc)

    thread = Thread(target=run, name="rlhf_tune loop", daemon=True)
    with mock.patch.object(Driving, "drive", drive):
        thread.start()
        trainer = trainers.get()
    if isinstance(trainer, BaseException):
        raise trainer
    try:
        yield trainer
    finally:
        over.set()
        thread.join()
    if not trainers.empty():
        raise trainers.get()
