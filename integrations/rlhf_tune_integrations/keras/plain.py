"""A run that changes nothing and promises nothing: `model.fit` itself, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import keras

from rlhf_tune.errors import DivergedError, InvalidInputError
from rlhf_tune.run.history import History
from rlhf_tune.run.mode import ModeName
from rlhf_tune_integrations.keras.arguments import Listeners, check_trained, mode_by_keras
from rlhf_tune_integrations.keras.batches import size_of_batches
from rlhf_tune_integrations.keras.intake import faults_in
from rlhf_tune_integrations.keras.recorded import KerasHistory
from rlhf_tune_integrations.keras.variables import all_finite, assign, values


class _Kept(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the best state that an epoch ended with, and the rates; what is not finite it refuses.

    Args:
        monitor: What is better: a key of the validation metrics.
        mode: Whether less of it is better, or more; "auto" knows Keras' metrics.
        data: To be searched for the cause where something is not finite, by name.
    """

    def __init__(self, monitor: str, mode: ModeName, **data: Any) -> None:
        super().__init__()
        self.rates: list[float] = []
        self._monitor, self._mode = monitor, mode
        self._data = data
        self._best, self._state = math.inf, values(())

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """The state before training is the first one to go back to."""
        check_trained(self.model)
        rises = mode_by_keras(self.model, self._monitor, self._mode) == "max"
        self._sign = -1.0 if rises else 1.0
        self._keep()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look, and keep the state if it is the best, or nothing is known of it."""
        if not hasattr(self.model.optimizer, "optimizers"):  # a MultiOptimizer has several
            self.rates.append(float(self.model.optimizer.learning_rate))
        value = (logs or {}).get(self._monitor)  # None in epochs that are not validated
        for name, finite in {
            "the weights": all_finite(self.model),
            f"{self._monitor!r}": value is None or math.isfinite(value),
        }.items():
            if not finite:
                raise DivergedError(
                    f"{name} must be finite, but ceased to be in epoch {epoch}; {self._why()}"
                )
        if value is None or self._sign * value < self._best:
            self._best = self._best if value is None else self._sign * value
            self._keep()

    def go_back(self) -> None:
        """Restore what was kept: weights, metrics and the optimizer."""
        assign(self._state)

    def _why(self) -> str:
        return "; ".join(faults_in(**self._data)) or (
            "lower the learning rate, or say policy='default'; or look for NaN in the data, and "
            "for logarithms and divisions in the loss"
        )

    def _keep(self) -> None:
        self._state = values([*self.model.variables, *self.model.optimizer.variables])


def plain_fit(
    model: keras.Model,
    x: Any,
    y: Any,
    listeners: Listeners,
    monitor: str,
    mode: ModeName,
    **arguments: Any,
) -> tuple[keras.callbacks.History, History]:
    """`model.fit`, and the keys that it does not write.

    Raises:
        InvalidInputError: If there is nothing to validate on, or to train.
        DivergedError: At the end of the first epoch that leaves weights that are not finite. This
            and any other exception leave the model at its best state, and carry the history.
    """
    if arguments["validation_data"] is None and not arguments["validation_split"]:
        raise InvalidInputError("`validation_data` or `validation_split` must be given")
    history, ours = KerasHistory(), History()
    kept = _Kept(monitor, mode, x=x, y=y, validation_data=arguments["validation_data"])
    try:
        model.fit(x, y, callbacks=[kept, *listeners, history], **arguments)
    except KeyboardInterrupt:
        ours.interrupted = True
        kept.go_back()
    except BaseException as exc:
        kept.go_back()
        exc.__dict__.update(history=history, best=model)
        raise
    n = len(history.epoch)
    if kept.rates:
        history.history.setdefault("learning_rate", kept.rates[:n])
    size = size_of_batches(x, y, arguments["batch_size"], arguments["steps_per_epoch"])
    if size is not None:
        history.history["batch_size"] = [size] * n
    history.history |= {"move": ["stay"] * n, "rolled_back": [0] * n}
    return history, ours
