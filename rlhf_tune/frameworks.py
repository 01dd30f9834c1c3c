"""Finds the adapter of the framework that a model belongs to, without importing any framework."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import UnsupportedModelError

GROUP = "rlhf_tune.frameworks"

Loss = Literal["cross_entropy", "margin"]


class Classifier(Protocol):
    """What the safety measurements ask of a model; each call leaves the model as it was.

    Arrays are NumPy: inputs `x` [B, ...] in data units, labels `y` [B] int64 in [0, C).
    """

    def logits(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Logits [B, C] in evaluation mode; C >= 2 (a single logit z is given as [0, z])."""
        ...

    def attack(
        self,
        x: NDArray[Any],
        y: NDArray[np.int64],
        *,
        loss: Loss,
        eps: float,
        step_size: float,
        steps: int,
        bounds: tuple[float, float],
        start: NDArray[Any],
    ) -> NDArray[Any]:
        """Inputs [B, ...] within `eps` (Linf) of `x` and within `bounds` that raise `loss`.

        One step of size `eps` from `start == x` is FGSM; more steps are PGD.
        """
        ...


class Framework(Protocol):
    """An adapter module: the value of an entry point of the group ``rlhf_tune.frameworks``."""

    def classifier(self, model: Any) -> Classifier:
        """Wrap a model of this framework.

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
def _adapters() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
