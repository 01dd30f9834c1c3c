"""Shows a training run as Keras does: a bar per epoch, or a line.

The bar is Keras' own and not the one of `rlhf_tune.progress`: `verbose` means here what it means to
`model.fit`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.utils.io_utils import print_msg  # prints where, and if, Keras does

from rlhf_tune.run.display import reason
from rlhf_tune.run.stretch import Stretch

Logs = dict[str, Any]


class Progress:
    """Keras' own progress bar, told of steps as they happen and of stretches rolled back.

    Args:
        model: That is trained.
        verbose: As for `model.fit`; 0 shows nothing.
        epochs: The number of the last epoch.
        steps: In an epoch at first.
    """

    def __init__(self, model: keras.Model, *, verbose: Any, epochs: int, steps: int) -> None:
        self._bar: keras.callbacks.ProgbarLogger | None = None
        if verbose:
            self._bar = keras.callbacks.ProgbarLogger()
            self._bar.set_params({"verbose": verbose, "epochs": epochs, "steps": steps})
            self._bar.set_model(model)
            self._bar.on_train_begin()

    def begin(self, epoch: int, steps: int) -> None:
        """An epoch of so many steps begins; it counts from 0."""
        if self._bar:
            self._bar.target = steps
            self._bar.on_epoch_begin(epoch)

    def resize(self, steps: int) -> None:
        """The batch size has changed, and with it the steps of the epoch."""
        if self._bar:
            self._bar.target = self._bar.progbar.target = steps

    def step(self, number: int, logs: Logs) -> None:
        """A step was taken; it may still be rolled back."""
        if self._bar and self._bar.verbose == 1:
            self._bar.on_train_batch_end(number, {k: float(v) for k, v in logs.items()})

    def stretch(self, stretch: Stretch) -> None:
        """A stretch was judged."""
        if not stretch.committed:
            self.say(f"rolled back: {reason(stretch)}")

    def range_test(self, points: int, learning_rate: float) -> None:
        """A range test was done, and the run begins with this rate."""
        self.say(f"range test ({points} probed): the learning rate begins at {learning_rate:.3g}")

    def end(self, logs: Logs) -> None:
        """An epoch was committed."""
        if self._bar:
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            if not numbers.get("rolled_back"):
                numbers.pop("rolled_back", None)
            self._bar.on_epoch_end(0, numbers)

    def say(self, line: str) -> None:
        """A line of its own."""
        if self._bar:
            print_msg(f"\n{line}" if self._bar.verbose == 1 else line)
