"""Batch sizes at which memory ran out: a run goes on with smaller ones."""

from __future__ import annotations

import gc
import math
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, final

from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.run.trainer import Metrics

_NAMES = {"OutOfMemoryError", "ResourceExhaustedError"}  # of PyTorch, TensorFlow and JAX


def ran_out(exc: BaseException) -> bool:
    """Whether an exception of any framework says that memory ran out."""
    if isinstance(exc, MemoryError) or type(exc).__name__ in _NAMES:
        return True
    return isinstance(exc, RuntimeError) and "out of memory" in str(exc).lower()


@final
@dataclass
class Memory:
    """What a run learns of its memory.

    Attributes:
        sizes: Batch sizes at which it ran out.
    """

    _trainer: Any = field(repr=False)
    sizes: list[int] = field(default_factory=list)

    @property
    def largest(self) -> float:
        """Batches may be so large."""
        return min(self.sizes, default=math.inf) - 1

    def train(self, steps: int) -> Metrics | None:
        """What the trainer reports; None if it ran out of memory, which is noted.

        Raises:
            Exception: Any other; also of memory, where no smaller batch can be set.
        """
        size = self._trainer.hyperparameters.get("batch_size", 1.0)
        try:
            metrics: Metrics = self._trainer.train(steps)
            return metrics
        except Exception as exc:
            if not ran_out(exc) or size < 2:
                raise
        # Here and not above: the exception holds the frames, and these what is to be freed.
        self.sizes.append(int(size))
        warnings.warn(
            f"memory ran out at batch size {size:g}; the run goes on with smaller ones",
            stacklevel=4,
        )
        _free()
        return None

    def fit(self) -> None:
        """Halve the batch size in effect until there is memory for it."""
        before = size = self._trainer.hyperparameters.get("batch_size", 1.0)
        while size > self.largest:
            size //= 2
        if size < before:
            self._trainer.set(batch_size=size)

    def discarded(self, move: Move, spent: float) -> Stretch:
        """The stretch in which it ran out: nothing was trained, and nothing is charged."""
        at = {**self._trainer.hyperparameters, **move.hyperparameters, "batch_size": self.sizes[-1]}
        return Stretch(move.name, at, 0, spent, {}, verdict="out of memory", factor=move.factor)


def _free() -> None:
    """Give back what the failed step holds, before anything smaller is tried."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
