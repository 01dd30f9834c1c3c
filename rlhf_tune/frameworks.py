"""Finds the adapter of the framework that a model belongs to, without importing any framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import ArtifactError, UnsupportedModelError

GROUP = "rlhf_tune.frameworks"
FILES = "rlhf_tune.artifacts"
TRAINERS = "rlhf_tune.trainers"

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

    @property
    def engine(self) -> str:
        """Who takes the gradient steps, see `rlhf_tune.engine`; where absent, "rlhf_tune"."""
        ...

    @property
    def whole(self) -> Classifier | None:
        """The model as it is served, where this one leaves out its last activation.

        Gradients and logits are better without it; predictions are those of the whole. None, or
        no such attribute, where nothing is left out.
        """
        ...

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs [B, C] in evaluation mode; C = 1 is binary.

        Raises:
            UnsupportedModelError: If the model does not take such inputs, or returns no scores.
        """
        ...

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
        """Sign of the gradient [B, ...] of each sample's loss, the FGSM direction.

        Args:
            x: Inputs [B, ...].
            own: Mask [B, max(C, 2)] of each sample's true class.
            loss: Which of `rlhf_tune.safety.logits.attack_loss` to raise.
            link: How to read the outputs.
            rival: Mask of the class to be taken for it, where not any class will do.
            draws: Passes of a random model over which the loss is averaged.

        Raises:
            NoGradientError: If the outputs are detached from the inputs.
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

    def worst_outputs(self, model: Any, batch: Any, box: Any, *, steps: int) -> Any:
        """Outputs [B, ...] in training mode at inputs moved against the training loss.

        Differentiable in the parameters; called within a training step. Asked for by adversarial
        training alone.

        Args:
            model: As it is trained.
            batch: An `rlhf_tune.safety.remedy.Batch`.
            box: An `rlhf_tune.safety.attacks.Box`: how far inputs may be moved.
            steps: Gradient steps, from a random start in the box.
        """
        ...

    def mean_price(
        self,
        model: Any,
        batch: Any,
        outputs: Any,
        if_positive: Any,
        if_negative: Any,
        *,
        positive: int,
        kind: str,
    ) -> Any:
        """The mean over a batch of a price times the probability of a class.

        Differentiable in the outputs; called within a training step. Asked for by the remedy of
        group fairness alone.

        Args:
            model: As it is trained.
            batch: An `rlhf_tune.safety.remedy.Batch`, with labels as integers, one-hot or 0 and 1.
            outputs: Of the model [B, C], [B, 1] or [B].
            if_positive: Price of each sample [B] whose label is the class.
            if_negative: Of each other one [B].
            positive: The class.
            kind: What the outputs are: "logits", "probabilities", or "auto".
        """
        ...

    def weights(self, model: Any) -> dict[str, NDArray[Any]]:
        """Everything that a saved model remembers, parameters and statistics, by stable names.

        The names do not depend on when or in which process the model was made; numbers that
        NumPy lacks are widened without loss.
        """
        ...


@dataclass(frozen=True)
class WeightsOnly:
    """What a file holds that needs the model's own code beside it.

    Attributes:
        arrays: The weights, as `Framework.weights` gives them.
        assign: Puts them into a model; raises `ArtifactError` where they do not fit.
    """

    arrays: Mapping[str, NDArray[Any]]
    assign: Callable[[Any], object]


class Loader(Protocol):
    """A module that reads model files: the value of an entry point named after their suffix.

    The group is ``rlhf_tune.artifacts``, the suffix without its dot, as in ``safetensors``.
    """

    def load(self, content: bytes, suffix: str) -> Any:
        """The model in a file; a `WeightsOnly` where it holds no more than that.

        Nothing that the file brings is executed, whatever it claims to be.

        Raises:
            ArtifactError: If it is unsafe, damaged, or not of this suffix' format.
            MissingExtraError: If the framework is not installed.
        """
        ...


class Fitting(Protocol):
    """A module that trains: the value of an entry point of the group ``rlhf_tune.trainers``.

    The entry point is named as one of ``rlhf_tune.frameworks`` is.
    """

    def fit(self, model: Any, /, *args: Any, **named: Any) -> Any:
        """Train with moves inside the run.

        Args:
            model: What the framework trains by: a model, a trainer or an estimator.
            *args: What else the framework's own training takes.
            **named: The same, and `constraints`, `monitor`, `policy`, `seed`, ...
        """
        ...


def fit(model: Any, /, *args: Any, **named: Any) -> Any:
    """Train a model, a trainer or an estimator with moves inside the run, whatever its framework.

    This is `fit` of the adapter that serves the most derived of the model's classes, so a Lightning
    module is Lightning's though it is PyTorch's too. Its page says what it takes and returns.

    Args:
        model: An instance of a class of Keras, PyTorch, Lightning, scikit-learn, skorch, or a
            `transformers.Trainer`; or of a framework that a third party's adapter serves.
        *args: Passed on.
        **named: Passed on.

    Raises:
        UnsupportedModelError: If no installed adapter trains such objects.

    Example:
        >>> rlhf_tune.fit(model, x, y, epochs=12, validation_data=(x_val, y_val))  # a Keras model
    """
    return cast(Fitting, _serving(model, _trainers(), TRAINERS).load()).fit(model, *args, **named)


def framework_of(model: object) -> Framework:
    """The adapter whose entry-point name is the top-level package of one of `model`'s classes.

    The most derived class decides, so a Keras model on the torch backend is Keras'.

    Raises:
        UnsupportedModelError: If no installed adapter serves any class of the model.
    """
    return cast(Framework, _serving(model, _adapters(), GROUP).load())


def _serving(model: object, adapters: Mapping[str, EntryPoint], group: str) -> EntryPoint:
    """The entry point of the most derived class that has one."""
    for cls in type(model).__mro__:
        entry = adapters.get(cls.__module__.partition(".")[0])
        if entry is not None:
            return entry
    got = f"{type(model).__module__}.{type(model).__qualname__}"
    if isinstance(model, type):
        got = f"the class {model.__qualname__} itself, where an instance is needed"
    raise UnsupportedModelError(
        f"a model of one of the frameworks {sorted(adapters)} was expected, but got {got}; "
        f"add an adapter by an entry point of the group {group!r}"
    )


def loader_of(suffix: str) -> Loader:
    """The loader of files that end in `suffix`, dot included; imports its framework.

    Raises:
        ArtifactError: If no installed adapter reads such files.
    """
    entry = _loaders().get(suffix.removeprefix("."))
    if entry is None:
        known = ", ".join(f".{name}" for name in sorted(_loaders()))
        raise ArtifactError(
            f"the model's file must end in one of {known}, but ends in {suffix!r}; "
            f"pickles are never loaded"
        )
    return cast(Loader, entry.load())


@cache
def _adapters() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def _trainers() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=TRAINERS)}


@cache
def _loaders() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=FILES)}
