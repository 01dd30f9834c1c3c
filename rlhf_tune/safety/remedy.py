"""What a constraint offers to a run that does not reach it: a term of the training loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.ascent import ascend
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.attacks import Box
from rlhf_tune.safety.measurement import Measurement, check_distinct, check_text

STEPS = 2
"""Attack steps of adversarial training: against one a network learns to hide its gradients."""

# Chosen in a pilot on MNIST and Fashion-MNIST, not tuned since; docs/benchmarks/knobs.md has what
# they do on other data.
_START, _WITHIN = 0.25, (0.05, 0.95)
_RISE, _FALL = 0.2, 0.05  # of a stretch, at most; a weight that jumps ends a run at large radii
_GAIN = 5.0

_ROUNDING = 1e-6  # a framework may keep a weight in single precision


@dataclass(frozen=True)
class Batch:
    """What a term of the loss is told of the batch in hand, in the arrays of the framework.

    Attributes:
        x: Inputs [B, ...].
        y: Targets [B, ...].
        loss: The training loss of outputs [B, ...] for these targets, a scalar.
        columns: What the remedy made of the samples' groups [B, C]; None where it asks for none.
    """

    x: Any
    y: Any
    loss: Callable[[Any], Any]
    columns: Any = None


Term = Callable[[Any, Batch, Any, Mapping[str, Any]], Any]
"""Of the model, the batch, its outputs [B, ...] and the weights by name: added to the loss."""


@dataclass(frozen=True)
class Remedy:
    """A differentiable term of the training loss, with weights that a run moves on request.

    Each weight is a multiplier that ascends while the bound is missed, in proportion to by how
    much, and descends slowly while it is kept (dual ascent with limited steps).

    Attributes:
        names: Of the weights: hyperparameters of the trainer, and keys of the history.
        term: What is added to the training loss; differentiable in the model's parameters.
        start: Of each weight.
        rise: The largest step up of a stretch.
        fall: The largest step down.
        within: The least and the largest weight.
        gain: Step per unit by which the measurement misses its bound.
        missed: For weights of either sign: by how much a measurement misses, by name, what a rise
            answers and what a fall does. Each side has a multiplier, and the weight is their
            difference. None where a weight answers the measurement as a whole.
        columns: What the term needs of the groups of samples: from what a user hands in as
            `groups` and the number of samples (None if unknown) to floats [N, C].
    """

    names: tuple[str, ...]
    term: Term
    start: float = _START
    rise: float = _RISE
    fall: float = _FALL
    within: tuple[float, float] = _WITHIN
    gain: float = _GAIN
    missed: Callable[[Measurement], Mapping[str, tuple[float, float]]] | None = None
    columns: Callable[[Any, int | None], NDArray[np.float32]] | None = None

    def __post_init__(self) -> None:
        """Check.

        Raises:
            InvalidInputError: If an attribute breaks its rule.
        """
        names = [check_text(name) for name in self.names]
        check_distinct(names)
        if not names or not callable(self.term):
            raise InvalidInputError(
                f"a remedy must name its weights and have a term, but got names={self.names!r} "
                f"and term={self.term!r}"
            )
        low, high = self.within
        if not low <= self.start <= high or min(self.rise, self.fall, self.gain) < 0:
            raise InvalidInputError(
                f"`start` must lie within `within`, and `rise`, `fall` and `gain` must not be "
                f"negative, but got start={self.start}, within={self.within}, rise={self.rise}, "
                f"fall={self.fall}, gain={self.gain}"
            )

    @property
    def first(self) -> dict[str, float]:
        """The weights with which a run begins."""
        return dict.fromkeys(self.names, self.start)

    def update(self, weights: Mapping[str, float], measured: Measurement) -> dict[str, float]:
        """The weights after a stretch at whose end its constraint measured this."""
        if self.missed is None:
            return {name: self._ascend(weights[name], measured.missed) for name in self.names}
        missed = self.missed(measured)
        moved = {}
        for name in self.names:
            up, down = (
                self._ascend(max(0.0, side * weights[name]), by, within=(0.0, self.within[1]))
                for side, by in zip((1, -1), missed[name], strict=True)
            )
            moved[name] = up - down
        return moved

    def _ascend(
        self, weight: float, missed: float, within: tuple[float, float] | None = None
    ) -> float:
        within = within or self.within
        return ascend(weight, missed, gain=self.gain, rise=self.rise, fall=self.fall, within=within)

    def exhausted(self, weights: Mapping[str, float]) -> bool:
        """Whether no weight can rise any more; of weights of either sign, whether one cannot."""
        most = self.within[1] - _ROUNDING
        at_most = [abs(weights[name]) >= most for name in self.names]
        return all(at_most) if self.missed is None else any(at_most)


def columns_of(
    remedies: Collection[Remedy], groups: Any, n: int | None
) -> tuple[NDArray[np.float32] | None, ...]:
    """What each remedy makes of the training samples' groups; None for those that ask for none.

    Args:
        remedies: Of a run.
        groups: As the user gave them to it; None if not.
        n: Training samples; None if unknown.

    Raises:
        InvalidInputError: If groups are missing, of another length, or not asked for.
    """
    asking = [remedy for remedy in remedies if remedy.columns is not None]
    if groups is None and asking:
        raise InvalidInputError(
            f"`groups` must be given, the group of each training sample, as {asking[0].names[0]} "
            f"prices the gaps between them; those of the constraint are other samples'"
        )
    if groups is not None and not asking:
        raise InvalidInputError(
            "`groups` are for a remedy of gaps between groups: with reach=True, and GroupFairness "
            "among the constraints; but there is none"
        )
    return tuple(each.columns and each.columns(groups, n) for each in remedies)


def adversarial_training(eps: Any, bounds: tuple[Any, Any] = (0.0, 1.0)) -> Remedy:
    """Train on inputs that are moved against the model, with the weight "adversarial_weight" w.

    The loss becomes (1 - w) times that of the batch plus w times that of its samples moved by two
    steps of PGD from a random start (Madry et al. 2018, arXiv:1706.06083).

    Args:
        eps: Radius (Linf) in the units of the inputs, a number or one for each feature.
        bounds: Range of the inputs, each end a number or one for each feature.
    """
    return Remedy(("adversarial_weight",), _Adversarial(Box(eps, bounds)))


@final
@dataclass(frozen=True, eq=False)
class _Adversarial:
    """The term: it takes w of the loss away and puts that of the moved samples in its place."""

    box: Box

    def __call__(self, model: Any, batch: Batch, outputs: Any, weights: Mapping[str, Any]) -> Any:
        (weight,) = weights.values()
        moved = framework_of(model).worst_outputs(model, batch, self.box, steps=STEPS)
        return weight * (batch.loss(moved) - batch.loss(outputs))
