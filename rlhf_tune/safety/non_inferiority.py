"""Robust accuracy beside another model's, paired by sample."""

from __future__ import annotations

from typing import Any, final

from numpy.typing import ArrayLike

from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.attacks import Box, Mask
from rlhf_tune.safety.evaluation import Evaluation, Outputs, check_outputs
from rlhf_tune.safety.intervals import (
    check_confidence,
    check_enough,
    difference_interval,
    proportion_interval,
)
from rlhf_tune.safety.ladder import climb, contradictions, details_of
from rlhf_tune.safety.measurement import Constraint, Measurement, check_name, measured
from rlhf_tune.safety.samples import (
    check_fraction,
    check_samples,
    distinct_rows,
    doubt_of_units,
    shown,
)


@final
class NonInferiority(Constraint):
    """Robust accuracy may fall behind another model's by at most a margin, on the same samples.

    The value is the difference of the two robust accuracies, new minus old, each under the worst
    of all attacks of `RobustAccuracy(full=True)` per sample. Only the samples on which the models
    disagree speak (as in McNemar's test): a share `gained` that the new model alone keeps, and a
    share `lost` that the old one alone keeps. The lower bound of ``gained - lost`` takes the exact
    bound of each at half the error rate, so it holds for every n, and is a little wider than an
    approximate one.

    Args:
        baseline: The old model.
        x: Inputs [N, ...] that both are measured on, within `bounds`.
        y: True labels [N], integers.
        eps: Radius (Linf) in the units of the data, a number or one for each feature.
        margin: How much may be lost, a fraction.
        bounds: Range of the data.
        confidence: Of the one-sided bound that decides.
        seed: Of the random starts.
        outputs: What the models' outputs are: "logits", "probabilities", or "auto".
        name: Of its measurements; by default it tells eps.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        TooFewSamplesError: If even equal models could not pass with so few samples.
    """

    def __init__(
        self,
        baseline: Any,
        x: ArrayLike,
        y: ArrayLike,
        *,
        eps: ArrayLike,
        margin: float,
        bounds: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
        confidence: float = 0.95,
        seed: int = 0,
        outputs: Outputs = "auto",
        name: str | None = None,
    ) -> None:
        self._baseline = baseline
        samples, labels = check_samples(x, y)
        self._box, self._seed = Box.checked(samples, eps, bounds), seed
        check_confidence(confidence)
        self._margin, self._confidence = check_fraction("margin", margin), confidence
        self._outputs = check_outputs(outputs)
        kept = distinct_rows(samples, labels)
        self._x, self._y = samples[kept], labels[kept]
        self.name = check_name(name, f"non_inferiority[eps={shown(self._box.eps)}]")
        both = (1 + confidence) / 2
        asked = f"margin={self._margin:g}"
        check_enough(self.name, len(kept), 1 - self._margin, both, asked=asked)
        self._doubts = doubt_of_units(self._box.eps, self._x, self._box.bounds)

    def __call__(self, model: Any) -> Measurement:
        """Measure both models, leaving them as they were.

        Raises:
            InvalidInputError: If a label is not one of a model's classes.
            UnsupportedModelError: If a model cannot be measured.
        """
        new, doubts, engine = self._survivors(model)
        old, old_doubts, _ = self._survivors(self._baseline)
        n = len(new)
        gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
        return measured(
            self.name,
            (gained - lost) / n,
            -self._margin,
            difference_interval(gained, lost, n, self._confidence),
            n,
            kind="floor",
            reasons=[*self._doubts, *doubts, *(f"baseline: {doubt}" for doubt in old_doubts)],
            details={
                "robust_accuracy": float(new.mean()),
                "baseline": float(old.mean()),
                "gained": gained / n,
                "lost": lost / n,
            },
            engine=engine,
        )

    def _survivors(self, model: Any) -> tuple[Mask, list[str], str | None]:
        with framework_of(model).classifier(model) as classifier:
            evaluation = Evaluation(classifier, self._x, self._y, outputs=self._outputs)
            seen = climb(evaluation, self._box, seed=self._seed)
            details = details_of(evaluation, seen.still, seen.under)
            low, high = proportion_interval(
                int(seen.alive.sum()), len(seen.alive), self._confidence
            )
            found = contradictions(details, (high - low) / 2)
            return seen.alive, [*evaluation.doubts, *seen.doubts, *found], evaluation.engine
