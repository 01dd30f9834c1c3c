"""How unlike a model treats groups of people, with a ceiling."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.evaluation import Evaluation, Outputs, check_outputs
from rlhf_tune.safety.gaps import (
    METRICS,
    Bits,
    check_wide_enough,
    detail,
    gap_of,
    half_width,
    rows_of,
    worst,
)
from rlhf_tune.safety.groups import Level, levels_of, skipped_of
from rlhf_tune.safety.intervals import check_confidence
from rlhf_tune.safety.measurement import (
    Constraint,
    Measurement,
    check_distinct,
    check_name,
    measured,
)
from rlhf_tune.safety.samples import (
    as_number,
    check_count,
    check_fraction,
    check_samples,
    row_keys,
)

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy


@final
class GroupFairness(Constraint):
    """The largest gap between the rates of two groups, with a ceiling.

    Measured for each attribute and each intersection of attributes; the worst level counts. A
    model that treats everybody the same by learning nothing keeps any ceiling: ask for a floor of
    the metric that you care for as well.

    The upper bound that decides is the largest of all pairs' of groups; each holds at the
    confidence, so no correction for their number is needed (see `rlhf_tune.safety.gaps`). Equal
    samples all count: two people may have the same features.

    Args:
        x: Inputs [N, ...] that the model is measured on.
        y: True labels [N], integers.
        sensitive: The group [N] of each sample, text or numbers; or several such arrays by name,
            as a mapping or data frame.
        at_most: The ceiling, a fraction.
        metric: "demographic_parity" (rates of positive predictions), "equal_opportunity" (of those
            among positive labels) or "equalized_odds" (among positive and among negative labels).
        positive: The class that is a benefit; it may be left out where the labels are 0 and 1.
        min_group_size: Groups with fewer members are left out, and a note names them.
        confidence: Of the one-sided bound that decides, above 0.5.
        outputs: What the model's outputs are: "logits", "probabilities", or "auto".
        name: Of its measurements.

    Raises:
        InvalidInputError: If an argument breaks its rule; if groups are missing, continuous or
            fewer than two; or if no two groups have the rates of the metric.
        TooFewSamplesError: If the ceiling is narrower than the half-width of the gap on these
            samples: of positive predictions for groups that have the same rate as the labels, else
            for a model that is right nine times of ten in all groups.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        sensitive: Any,
        *,
        at_most: float,
        metric: str = "demographic_parity",
        positive: int | None = None,
        min_group_size: int = 20,
        confidence: float = 0.95,
        outputs: Outputs = "auto",
        name: str | None = None,
    ) -> None:
        if metric not in METRICS:
            raise InvalidInputError(f"`metric` must be one of {list(METRICS)}, but got {metric!r}")
        self.name, self._named = check_name(name, metric), name is not None
        self._x, self._y = check_samples(x, y)
        self._positive, self._right = positive, _positives(self._y, positive)
        self._metric, self._ceiling = metric, check_fraction("at_most", at_most)
        self._confidence = check_confidence(confidence, above=0.5)
        self._outputs = check_outputs(outputs)
        least = check_count("min_group_size", min_group_size)
        self._levels = levels_of(sensitive, len(self._y), least)
        self._notes = [f"{group} is left out: {why}" for group, why in skipped_of(self._levels)]
        self._check_samples()

    def __call__(self, model: Any) -> Measurement:
        """Measure `model`, leaving it as it was.

        Raises:
            InvalidInputError: If a label is not one of the model's classes, or the model has more
                than two and `positive` was not given.
            UnsupportedModelError: If the model cannot be measured.
        """
        with framework_of(model).classifier(model) as classifier:
            evaluation = Evaluation(classifier, self._x, self._y, outputs=self._outputs)
        classes = evaluation.logits.shape[1]
        if classes > 2 and self._positive is None:
            raise InvalidInputError(
                f"the class that is a benefit must be given for a model of {classes} classes: "
                f"positive=1"
            )
        predicted = evaluation.predicted == (1 if self._positive is None else self._positive)
        gaps = {
            level.label: gap_of(
                level, self._right, predicted, self._metric, self._confidence, len(self._levels)
            )
            for level in self._levels
        }
        largest = worst(list(gaps.values()))
        return measured(
            self.name,
            largest.value,
            self._ceiling,
            largest.interval,
            largest.n,
            kind="ceiling",
            reasons=evaluation.doubts_of_predictions,
            details={
                "accuracy": float(evaluation.right.mean()),
                **{label: each.value for label, each in gaps.items() if each.defined},
                **dict(self._rates(predicted)),
            },
            notes=self._notes,
        )

    def remedy(self) -> Remedy:
        """A price of the gaps in the training loss, with the weight "fair_weight".

        See `rlhf_tune.safety.fair_weight.fair_training`; a run with it needs the training
        samples' `groups`.
        """
        from rlhf_tune.safety.fair_weight import fair_training  # asked for by few runs

        return fair_training(
            self._levels,
            METRICS[self._metric],
            self._right,
            positive=1 if self._positive is None else self._positive,
            outputs=self._outputs,
            name=self.name if self._named else None,
        )

    def at_confidence(self, confidence: float) -> GroupFairness:
        """The same measure at another confidence, whether or not its ceiling can be kept there."""
        other = copy.copy(self)
        other._confidence = check_confidence(confidence, above=0.5)
        return other

    @property
    def at_most(self) -> float:
        """The ceiling."""
        return self._ceiling

    @property
    def confidence(self) -> float:
        """Of the bound that decides."""
        return self._confidence

    @property
    def half_width(self) -> float:
        """How far beyond nought the bound lies for groups that are treated alike."""
        widths = [
            half_width(n[n > 0], rate, self._confidence) for _, n, rate, _ in self._compared()
        ]
        return max(widths)

    def halves(self, candidates: int) -> tuple[Constraint, Constraint]:
        """Half of each group's positive and negative samples, and the other half.

        Raises:
            TooFewSamplesError: If the ceiling is narrower than a half's half-width at the
                confidence that is left to each candidate.
        """
        confidence = 1 - (1 - self._confidence) / candidates
        codes = [level.codes for level in self._levels]
        order = np.lexsort([row_keys(self._x)["high"], self._right, *codes])
        return self._part(order[::2], confidence), self._part(order[1::2], confidence)

    def _part(self, rows: NDArray[np.intp], confidence: float) -> GroupFairness:
        part = copy.copy(self)
        part._x, part._y, part._right = self._x[rows], self._y[rows], self._right[rows]
        part._levels = [replace(level, codes=level.codes[rows]) for level in self._levels]
        part._confidence = confidence
        try:
            part._check_samples()
        except TooFewSamplesError as exc:
            raise TooFewSamplesError(
                f"{exc} (a half of the samples steers the run, and a half certifies)"
            ) from exc
        return part

    def _check_samples(self) -> None:
        compared = list(self._compared())
        if not compared:
            raise InvalidInputError(
                f"at least two groups must have labels that {self._metric} compares, but "
                f"{int(self._right.sum())} of {len(self._right)} labels are positive"
            )
        for level, n, rate, counted in compared:
            known = np.flatnonzero(n)
            check_wide_enough(
                self.name,
                [f"{level.label} {level.names[i]}" for i in known],
                n[known],
                at_most=self._ceiling,
                confidence=self._confidence,
                rate=rate,
                of=counted,
            )

    def _compared(self) -> Iterator[tuple[Level, NDArray[np.int64], float, str]]:
        """Of each level and rate: the samples [G], what rate is supposed, and what is counted."""
        for level, rate in self._conditions():
            n = level.counts(rows_of(rate, self._right))
            if (n > 0).sum() >= 2:
                parity = rate == "selection_rate"
                yield level, n, float(self._right.mean()) if parity else _ALIKE, _COUNTED[rate]

    def _conditions(self) -> Iterator[tuple[Level, str]]:
        for level in self._levels:
            for rate in METRICS[self._metric]:
                yield level, rate

    def _rates(self, predicted: Bits) -> Iterator[tuple[str, float]]:
        """The rate of each group, and the name that it has among the details."""
        for level, rate in self._conditions():
            rows = rows_of(rate, self._right)
            n, successes = level.counts(rows), level.counts(rows & predicted)
            for group in np.flatnonzero(n):
                yield detail(level, rate, group), float(successes[group] / n[group])


_ALIKE = 0.9  # right nine times of ten in all groups: narrower bounds are for better models
_COUNTED = {
    "selection_rate": "samples",
    "true_positive_rate": "samples with a positive label",
    "false_positive_rate": "samples with a negative label",
}


def _positives(y: NDArray[np.int64], positive: int | None) -> Bits:
    """Which samples [N] have the label that is a benefit."""
    if positive is None and y.max() > 1:
        raise InvalidInputError(
            f"labels must be 0 or 1, but `y` has {int(y.max())}; name the class that is a "
            f"benefit: positive={int(y.max())}"
        )
    if positive is not None and (not isinstance(positive, int | np.integer) or positive < 0):
        raise InvalidInputError(f"`positive` must be a class, as 1, but got {positive!r}")
    return np.asarray(y == (1 if positive is None else positive))


def weighted_sum(
    parts: Sequence[tuple[GroupFairness, float]], *, at_most: float, name: str | None = None
) -> Constraint:
    """One constraint on the weighted sum of several gaps; `a & b` asks for the worst instead.

    Each part has its share of the error, so that the sum of their bounds holds at the smallest
    confidence among them; their own ceilings do not count.

    Args:
        parts: Constraints and their weights, above 0.
        at_most: The ceiling of the sum, in its units.
        name: Of its measurements.

    Raises:
        InvalidInputError: If there is no part, two have one name, or a weight or the ceiling
            breaks its rule.
        TooFewSamplesError: If the ceiling is narrower than the weighted sum of half-widths.
    """
    if not parts or not all(isinstance(part, GroupFairness) for part, _ in parts):
        raise InvalidInputError(
            f"`parts` must be pairs of a GroupFairness and a weight, but got {parts!r}"
        )
    check_distinct([part.name for part, _ in parts])
    weights = [as_number(f"the weight of {part.name!r}", weight) for part, weight in parts]
    if not all(0 < weight < math.inf for weight in weights):
        raise InvalidInputError(f"weights must be above 0 and finite, but got {weights}")
    usual = " + ".join(f"{w:g} {part.name}" for w, (part, _) in zip(weights, parts, strict=True))
    return _WeightedSum(
        [part for part, _ in parts], weights, as_number("`at_most`", at_most), name or usual
    )


@final
class _WeightedSum(Constraint):
    """The weighted sum of several gaps; see `weighted_sum`."""

    def __init__(
        self, parts: Sequence[GroupFairness], weights: Sequence[float], ceiling: float, name: str
    ) -> None:
        self.name, self._weights, self._ceiling = name, weights, ceiling
        confidence = 1 - (1 - min(part.confidence for part in parts)) / len(parts)
        self._parts = [part.at_confidence(confidence) for part in parts]
        width = float(np.dot(weights, [part.half_width for part in self._parts]))
        if width > ceiling:
            raise TooFewSamplesError(
                f"{name}: for groups that are treated alike the sum could be {width:.3g}, which is "
                f"more than at_most={ceiling:g}; allow more, or measure on more samples"
            )

    def __call__(self, model: Any) -> Measurement:
        """Measure each part, leaving `model` as it was."""
        found = [part(model) for part in self._parts]
        value, low, high = (
            float(np.dot(self._weights, column))
            for column in zip(*((m.value, *m.interval) for m in found), strict=True)
        )
        return measured(
            self.name,
            value,
            self._ceiling,
            (low, high),
            min(m.n for m in found),
            kind="ceiling",
            reasons=[f"{m.name}: {why}" for m in found for why in m.reasons],
            details={
                f"{m.name}{tail}": figure
                for m in found
                for tail, figure in {
                    "": m.value,
                    **{f".{k}": v for k, v in m.details.items()},
                }.items()
            },
            notes=[f"{m.name}: {note}" for m in found for note in m.notes],
        )
