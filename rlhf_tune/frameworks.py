"""Finds the adapter of the framework that a model belongs to, without importing any framework."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import UnsupportedModelError

GROUP = "rlhf_tune.frameworks"

Loss = Literal["cross_entropy", "margin"]
Link = Literal["logit", "probability"]


class Classifier(Protocol):
    """What the safety measurements ask of a model: its outputs, and which way a loss rises.

    Arrays are NumPy; inputs `x` are floats [B, ...] in data units. Samples are independent of
    each other: a sample's results are those of a batch of its own.

    Attributes:
        link: What the outputs are, where the model's last layer tells; None where only the
            values can.
    """

    link: Link | None

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs [B, C] in evaluation mode: logits where they can be had; C = 1 is binary."""
        ...

    def direction(
        self, x: NDArray[Any], own: NDArray[np.bool_], *, loss: Loss, link: Link
    ) -> NDArray[Any]:
        """Sign of the gradient [B, ...] of each sample's loss, the FGSM direction.

        Args:
            x: Inputs [B, ...].
            own: Mask [B, max(C, 2)] of each sample's true class.
            loss: Which of `rlhf_tune.safety.scores.attack_loss` to raise.
            link: How to read the outputs.

        Raises:
            UnsupportedModelError: If the outputs are detached from the inputs.
            MissingExtraError: If CleverHans is not installed.
        """
        ...


class Framework(Protocol):
    """An adapter module: the value of an entry point of the group ``rlhf_tune.frameworks``."""

    def classifier(self, model: Any) -> AbstractContextManager[Classifier]:
        """Lend a model of this framework to a measurement.

        On leaving the context, also by an exception, the model is as it was on entering:
        modes, gradients, statistics and random streams included.

        Raises:
            UnsupportedModelError: If it is not a classifier that can be measured.
        """
        ...


def framework_of(model: object) -> Framework:
    """The adapter whose entry-point name is the top-level package of one of `model`'s classes.

    The most derived class decides, so a Keras model on the torch backend is Keras'.

    Raises:
        UnsupportedModelError: If no installed adapter serves any class of the model.
    """
    adapters = _adapters()
    for cls in type(model).__mro__:
        entry = adapters.get(cls.__module__.partition(".")[0])
        if entry is not None:
            return cast(Framework, entry.load())
    raise UnsupportedModelError(
        f"a model of one of the frameworks {sorted(adapters)} was expected, "
        f"but got {type(model).__module__}.{type(model).__qualname__}; "
        f"add an adapter by an entry point of the group {GROUP!r}"
    )


@cache
def _adapters() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
