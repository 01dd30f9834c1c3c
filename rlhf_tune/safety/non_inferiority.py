"""Robust accuracy beside another model's, paired by sample."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.evaluation import Evaluation
from rlhf_tune.safety.intervals import difference_interval
from rlhf_tune.safety.measurement import Constraint, Measurement, measured
from rlhf_tune.safety.robustness import LADDER, Attack, Mask
from rlhf_tune.safety.samples import check_samples


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
        x: Inputs [N, ...] that both are measured on, within `bounds`.
        y: True labels [N], integers.
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
        x: ArrayLike,
        y: ArrayLike,
        *,
        eps: float,
        margin: float,
        bounds: tuple[float, float] = (0.0, 1.0),
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.name = "non_inferiority"
        self._baseline = baseline
        self._x, self._y = check_samples(x, y)
        self._margin, self._confidence = margin, confidence
        self._attacks = [Attack.checked(name, self._x, eps, bounds, seed=seed) for name in LADDER]

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
            evaluation = Evaluation(classifier, self._x, self._y)
            masks = [attack.survivors(evaluation)[0] for attack in self._attacks]
            return np.logical_and.reduce(masks), evaluation.doubts
