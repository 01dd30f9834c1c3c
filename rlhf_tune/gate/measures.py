"""What a gate measures beyond `rlhf_tune.safety`: the sweep of radii, and the paired comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError, RlhfTuneError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate.data import Samples
from rlhf_tune.safety import Constraint, Measurement
from rlhf_tune.safety.constraint import measured, proportion_interval
from rlhf_tune.safety.robustness import Attack, AttackName
from rlhf_tune.safety.view import View

Mask = NDArray[np.bool_]

LADDER: tuple[AttackName, ...] = ("noise", "fgsm", "pgd")


@dataclass(frozen=True)
class Point:
    """Accuracy at one radius: under each attack, and under the worst of them per sample."""

    eps: float
    under: Mapping[str, float]
    worst: float


def sweep(
    model: Any,
    samples: Samples,
    radii: Iterable[float],
    attacks: Sequence[AttackName],
    *,
    bounds: tuple[float, float],
    seed: int = 0,
) -> list[Point]:
    """The accuracy of a model at each radius; of integers, radii below one step are left out.

    Raises:
        InvalidInputError: If a radius is outside the range of the data.
    """
    whole = samples.x.dtype.kind in "iu"
    wanted = [eps for eps in radii if not (whole and 0 < eps < 1)]
    points = []
    with framework_of(model).classifier(model) as classifier:
        view = View(classifier, samples.x, samples.y)
        for eps in wanted:
            masks = {
                name: Attack.checked(name, samples.x, eps, bounds, seed=seed).survivors(view)[0]
                for name in attacks
            }
            worst = np.logical_and.reduce(list(masks.values()))
            under: dict[str, float] = {name: float(mask.mean()) for name, mask in masks.items()}
            points.append(Point(eps, under, float(worst.mean())))
    return points


def check_accepts(model: Any, samples: Samples) -> None:
    """Raise `InvalidInputError` unless the model takes such inputs and knows every label."""
    rows = [0, int(samples.y.argmax())]
    try:
        with framework_of(model).classifier(model) as classifier:
            View(classifier, samples.x[rows], samples.y[rows])
    except RlhfTuneError:
        raise
    except Exception as exc:  # frameworks raise what they like for a wrong shape
        reason = " ".join(str(exc).split())[:200]
        raise InvalidInputError(
            f"the model must take batches of `x`, whose samples are {samples.x.dtype} of shape "
            f"{samples.x.shape[1:]}, but: {reason}"
        ) from exc


@final
class NonInferiority(Constraint):
    """Robust accuracy may fall behind another model's by at most a margin, on the same samples.

    The value is the difference of the two robust accuracies, new minus old, each under the worst
    of noise, FGSM and PGD per sample. Only the samples on which the models disagree speak (as in
    McNemar's test): a share `gained` that the new model alone keeps, and a share `lost` that the
    old one alone keeps. The lower bound of ``gained - lost`` takes the exact bound of each at
    half the error rate, so it holds for every n, and is a little wider than an approximate one.

    Args:
        baseline: The old model.
        samples: What both are measured on.
        eps: Radius (Linf) in the units of the data.
        margin: How much may be lost, a fraction.
        bounds: Range of the data.
        confidence: Of the one-sided bound that decides.
        seed: Of the random starts.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """

    def __init__(
        self,
        baseline: Any,
        samples: Samples,
        *,
        eps: float,
        margin: float,
        bounds: tuple[float, float] = (0.0, 1.0),
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.name = "non_inferiority"
        self._baseline, self._samples = baseline, samples
        self._margin, self._confidence = margin, confidence
        self._attacks = [Attack.checked(name, samples.x, eps, bounds, seed=seed) for name in LADDER]

    def __call__(self, model: Any) -> Measurement:
        """Measure both models, leaving them as they were.

        Raises:
            InvalidInputError: If a label is not one of a model's classes.
            UnsupportedModelError: If a model cannot be measured.
        """
        new, doubts = self._survivors(model)
        old, old_doubts = self._survivors(self._baseline)
        n = len(new)
        gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
        return measured(
            self.name,
            (gained - lost) / n,
            -self._margin,
            difference_interval(gained, lost, n, self._confidence),
            n,
            kind="floor",
            reasons=[*doubts, *(f"baseline: {doubt}" for doubt in old_doubts)],
            details={
                "robust_accuracy": float(new.mean()),
                "baseline": float(old.mean()),
                "gained": gained / n,
                "lost": lost / n,
            },
        )

    def _survivors(self, model: Any) -> tuple[Mask, list[str]]:
        with framework_of(model).classifier(model) as classifier:
            view = View(classifier, self._samples.x, self._samples.y)
            masks = [attack.survivors(view)[0] for attack in self._attacks]
            return np.logical_and.reduce(masks), view.doubts


def difference_interval(gained: int, lost: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a difference of paired shares ``(gained - lost) / n``.

    Each share gets its exact bound at half the error rate; together they hold at `confidence`.
    """
    half = (1 + confidence) / 2
    (gained_low, gained_high), (lost_low, lost_high) = (
        proportion_interval(count, n, half) for count in (gained, lost)
    )
    return gained_low - lost_high, gained_high - lost_low
