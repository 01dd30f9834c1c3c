"""Loops that a framework owns: they hand over after each optimizer step to what drives them.

The loop stays where it was called, with its devices, contexts and signal handlers. What drives it,
such as `rlhf_tune.run.Run`, reads as if it called the loop, and has a thread for that; of the two
exactly one is awake. On the loop's side, in the hooks of its framework:

    goes_on = handover.begin(drive)      # before the first step
    goes_on = handover.stepped(loss)     # after each optimizer step; where False, end the loop
    handover.end(exception)              # the loop is over: by itself (None) or by an exception

the last of which `with handover.watching():` around the whole loop does, where no hook can;

and on the other side, inside of `drive`:

    loss = handover.step()               # one optimizer step was taken
    value = handover.call(function)      # what touches the framework runs in the loop's thread
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, final

T = TypeVar("T")

_STEP, _OVER = object(), object()


class LoopEnded(KeyboardInterrupt):
    """The framework ended its loop by itself, which ends a run as Ctrl-C does."""


@final
class Handover:
    """Passes control between a loop and what drives it.

    Attributes:
        result: What `drive` returned, once it is over.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.result: Any = None
        self._orders: SimpleQueue[Any] = SimpleQueue()  # to the loop
        self._reports: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._beside: Thread | None = None
        self._error: BaseException | None = None

    def begin(self, drive: Callable[[], Any]) -> bool:
        """Start `drive` beside the loop; returns once it wants a step (True) or is over (False).

        Raises:
            BaseException: What `drive` raised.
        """
        context = contextvars.copy_context()
        self._beside = Thread(
            target=context.run, args=(self._driven, drive), name="rlhf_tune driver", daemon=True
        )
        self._beside.start()
        return self._obey()

    def stepped(self, loss: float | None) -> bool:
        """Hand over after an optimizer step; returns whether the loop is to go on.

        Args:
            loss: Of the step; None where it had none.

        Raises:
            BaseException: What `drive` raised.
        """
        return self._report(loss, None)

    def end(self, exc: BaseException | None = None) -> None:
        """The loop is over; what drives it is told, if it was not yet, and comes to its end.

        Args:
            exc: That ended the loop, raised on the other side as if a step had; None if it ended
                by itself.

        Raises:
            BaseException: What `drive` raised, `exc` perhaps.
        """
        while self._beside is not None:
            self._report(None, LoopEnded("the loop ended by itself") if exc is None else exc)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The loop is called inside, and `end` when it comes out; a run that Ctrl-C ended is fine.

        Raises:
            BaseException: What came out of the loop, or what `drive` raised.
        """
        try:
            yield
        except BaseException as exc:
            if self._beside is None:  # it is what `drive` raised, or came after it was over
                raise
            self.end(exc)
        else:
            self.end()

    def step(self) -> float | None:
        """Have the loop take one optimizer step; returns its loss, None where it had none.

        Raises:
            BaseException: What the loop raised; KeyboardInterrupt also if it ended.
        """
        loss = self._ask(_STEP)
        return None if loss is None else float(loss)

    def call(self, function: Callable[[], T]) -> T:
        """Have a function run in the loop's thread."""
        result: T = self._ask(function)
        return result

    def _ask(self, order: object) -> Any:
        self._orders.put(order)
        value, exc = self._reports.get()
        if exc is not None:
            raise exc
        return value

    def _driven(self, drive: Callable[[], Any]) -> None:
        try:
            self.result = drive()
        except BaseException as exc:  # noqa: BLE001 - raised again where the loop is
            self._error = exc
        self._orders.put(_OVER)

    def _report(self, value: Any, exc: BaseException | None) -> bool:
        if self._beside is None:
            return False
        self._reports.put((value, exc))
        return self._obey()

    def _obey(self) -> bool:
        """Do as the other side says until it wants a step, or is over."""
        while (order := self._next_order()) is not _STEP:
            if order is _OVER:
                return self._closed()
            try:
                self._reports.put((order(), None))
            except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
                self._reports.put((None, exc))
        return True

    def _next_order(self) -> Any:
        """Where Ctrl-C falls between, the other side hears of it at what it asks for next."""
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                order = self._orders.get()
            except KeyboardInterrupt as exc:
                interrupt = exc
                continue
            if interrupt is None or order is _OVER:
                return order
            self._reports.put((None, interrupt))
            interrupt = None

    def _closed(self) -> bool:
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.join()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return False
