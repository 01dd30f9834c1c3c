"""Keras models that take batches of one size only, as stateful layers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from rlhf_tune.frameworks import Classifier, Link, Loss


class _MaybeStripped(Classifier, Protocol):
    @property
    def whole(self) -> Classifier | None: ...


def any_size(classifier: _MaybeStripped, model: keras.Model) -> Classifier:
    """The classifier of a model, for batches of any size."""
    inputs = getattr(model, "inputs", None)
    size = inputs[0].shape[0] if inputs else None
    if size is None:
        return classifier
    whole = None if classifier.whole is None else InFixedBatches(classifier.whole, model, size)
    return InFixedBatches(classifier, model, size, whole)


class InFixedBatches:
    """A classifier that is asked in batches of one size, as `rlhf_tune.frameworks.Classifier`.

    The last batch is filled up with samples of its own. Each batch begins with the states of
    stateful layers at zero, so that a sample's results do not depend on the batches before.
    """

    def __init__(
        self,
        classifier: Classifier,
        model: keras.Model,
        size: int,
        whole: InFixedBatches | None = None,
    ) -> None:
        self.link, self.whole = classifier.link, whole
        self._classifier, self._size = classifier, size
        self._stateful = [
            layer
            for layer in model._flatten_layers()
            if getattr(layer, "stateful", False) and hasattr(layer, "reset_state")
        ]

    @property
    def engine(self) -> str:
        """Who takes the step; see `Classifier.engine`."""
        return self._classifier.engine

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs [B, C] in float64; see `Classifier.outputs`."""
        return self._each(self._classifier.outputs, x)

    def direction(
        self,
        x: NDArray[Any],
        own: NDArray[np.bool_],
        *,
        loss: Loss,
        link: Link,
        rival: NDArray[np.bool_] | None = None,
        draws: int = 1,
    ) -> NDArray[Any]:
        """Sign of each sample's input gradient; see `Classifier.direction`."""

        def ask(x: NDArray[Any], own: NDArray[np.bool_], rival: Any = None) -> NDArray[Any]:
            return self._classifier.direction(
                x, own, loss=loss, link=link, rival=rival, draws=draws
            )

        return self._each(ask, x, own, *(() if rival is None else (rival,)))

    def _each(self, ask: Callable[..., NDArray[Any]], *arrays: NDArray[Any]) -> NDArray[Any]:
        found = []
        for begin in range(0, len(arrays[0]), self._size):
            parts = [array[begin : begin + self._size] for array in arrays]
            n = len(parts[0])
            filled = np.resize(np.arange(n), self._size)
            for layer in self._stateful:
                layer.reset_state()
            found.append(ask(*(part[filled] for part in parts))[:n])
        return np.concatenate(found)
