"""How often the constraints of a run are measured, and what that takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from rlhf_tune.errors import InvalidInputError


@final
class Verification:
    """Counts the stretches up to the next measurement, and the time of measurements."""

    def __init__(self, every: Any) -> None:
        """From now on.

        Args:
            every: That many stretches, at least 1, come to one measurement.

        Raises:
            InvalidInputError: If it is no such number.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidInputError(
                f"`verify_every` must be a whole number >= 1, but got {every!r}"
            )
        self._every, self._stretches = every, 0
        self._seconds, self._before, self._begun = 0.0, 0.0, time.perf_counter()

    def due(self) -> bool:
        """To be asked once for each stretch: whether the constraints are to be measured."""
        self._stretches += 1
        return self._stretches % self._every == 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A measurement happens inside."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - begun

    @property
    def share(self) -> float:
        """Of the run's time so far that measurements took."""
        return self._seconds / max(self._elapsed(), self._seconds, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {
            "stretches": self._stretches,
            "seconds": self._seconds,
            "elapsed": self._elapsed(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from earlier counts."""
        self._stretches, self._seconds = state["stretches"], state["seconds"]
        self._before, self._begun = state["elapsed"], time.perf_counter()

    def _elapsed(self) -> float:
        return self._before + time.perf_counter() - self._begun
