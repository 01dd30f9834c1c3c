"""A report of how alike groups are treated: by attribute, by intersection, and person by person."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError, require
from rlhf_tune.printable import markdown
from rlhf_tune.safety.gaps import METRICS, Bits, Gap, gap_of, rows_of, worst
from rlhf_tune.safety.groups import Key, Level, levels_of, skipped_of
from rlhf_tune.safety.intervals import check_confidence
from rlhf_tune.safety.samples import check_count
from rlhf_tune.tabled import Tabled

if TYPE_CHECKING:
    from rlhf_tune.tables import Table


@dataclass(frozen=True)
class Rates:
    """What a model does to a group: shares, NaN where there are no such samples.

    Attributes:
        n: Samples of the group.
        accuracy: Of them.
        selection_rate: Of positive predictions.
        true_positive_rate: Of positive predictions where the label is positive.
        false_positive_rate: Of positive predictions where it is not.
    """

    n: int
    accuracy: float
    selection_rate: float
    true_positive_rate: float
    false_positive_rate: float


@dataclass(frozen=True)
class FairnessReport(Tabled):
    """Gaps at every level, with one-sided confidence bounds; prints as a table of the rates.

    Attributes:
        overall: The rates of all samples.
        by_level: By attribute, or tuple of attributes, the gap of each metric.
        rates: By attribute, or tuple of attributes, the rates of each group.
        macro: The largest gap of each metric over all levels.
        worst_level: Where that is; None where it is undefined.
        micro_consistency: 1 - the mean distance of a prediction to the mean of those of the
            nearest neighbours; None without `x`.
        skipped: Why, by the groups left out.
        confidence: Of each bound.
    """

    overall: Rates
    by_level: Mapping[Key, Mapping[str, Gap]]
    rates: Mapping[Key, Mapping[str, Rates]]
    macro: Mapping[str, Gap]
    worst_level: Mapping[str, Key | None]
    micro_consistency: float | None
    skipped: Mapping[str, str]
    confidence: float

    def table(self) -> Table:
        """The rates of every group, and below them the gaps of every level."""
        from rlhf_tune.tables import Table  # few ask for it

        rows = [["everyone", "", *asdict(self.overall).values()]]
        rows += [
            [_label(key), group, *asdict(rates).values()]
            for key, groups in self.rates.items()
            for group, rates in groups.items()
        ]
        gaps = [
            f"{name.replace('_', ' ')} of {_label(key)}: {_gap_text(gap, str)}"
            for key, gaps in self.by_level.items()
            for name, gap in gaps.items()
        ]
        left = [f"left out: {group} ({why})" for group, why in self.skipped.items()]
        alike = self.micro_consistency
        near = [] if alike is None else [f"consistency with nearest neighbours: {alike:.3f}"]
        sure = f"gaps with one-sided {100 * self.confidence:.4g} % bounds:"
        columns = ("level", "group", *(field.name.replace("_", " ") for field in fields(Rates)))
        return Table(columns, rows, notes=[sure, *gaps, *near, *left])

    def to_json(self) -> str:
        """The report as JSON; what is undefined is null, and an intersection "a x b"."""
        document = {
            "overall": asdict(self.overall),
            "by_level": {
                _label(key): {name: asdict(each) for name, each in gaps.items()}
                for key, gaps in self.by_level.items()
            },
            "rates": {
                _label(key): {group: asdict(each) for group, each in groups.items()}
                for key, groups in self.rates.items()
            },
            "macro": {name: asdict(each) for name, each in self.macro.items()},
            "worst_level": {
                name: None if key is None else _label(key) for name, key in self.worst_level.items()
            },
            "micro_consistency": self.micro_consistency,
            "skipped": dict(self.skipped),
            "confidence": self.confidence,
        }
        return json.dumps(_without_nan(document), indent=2) + "\n"

    def to_markdown(self) -> str:
        """Tables of the gaps and of the rates."""
        names = list(METRICS)
        gaps = [
            [markdown(_label(key)), *(_gap_text(gaps[name]) for name in names)]
            for key, gaps in self.by_level.items()
        ]
        gaps.append(["**worst**", *(f"**{_gap_text(self.macro[name])}**" for name in names)])
        everyone = ["everyone", "", *_rates_text(self.overall)]
        rows = [
            [markdown(_label(key)), markdown(group), *_rates_text(rates)]
            for key, groups in self.rates.items()
            for group, rates in groups.items()
        ]
        shares = ["accuracy", "selection rate", "true positive rate", "false positive rate"]
        sure = f"{100 * self.confidence:.4g} %"
        parts = [
            f"Largest differences between groups, with one-sided {sure} bounds:",
            _table(["level", *(name.replace("_", " ") for name in names)], gaps),
            _table(["level", "group", "n", *shares], [everyone, *rows]),
        ]
        if self.micro_consistency is not None:
            parts.append(f"Consistency with nearest neighbours: {self.micro_consistency:.3f}.")
        if self.skipped:
            said = "; ".join(
                f"{markdown(group)} ({markdown(why)})" for group, why in self.skipped.items()
            )
            parts.append(f"Left out: {said}.")
        return "\n\n".join(parts) + "\n"


def fairness_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sensitive: Any,
    *,
    x: ArrayLike | None = None,
    neighbours: int = 5,
    min_group_size: int = 20,
    confidence: float = 0.95,
) -> FairnessReport:
    """How alike groups are treated, by each attribute, by their intersections, and by neighbours.

    A rate of which a group has no samples, as true positives where no label is positive, is
    undefined and does not decide; the values are else fairlearn's.

    Args:
        y_true: Labels [N], 0 or 1.
        y_pred: Predictions [N], 0 or 1.
        sensitive: The group [N] of each sample, text or numbers; or several such arrays by name,
            as a mapping or data frame.
        x: Features [N, ...], on scales in which distances mean something, for the consistency.
        neighbours: How many nearest samples a prediction is compared with.
        min_group_size: Members that a group must have.
        confidence: Of the one-sided bounds.

    Raises:
        InvalidInputError: If labels or predictions are not binary, lengths differ, or groups are
            missing, continuous, or fewer than two.
        MissingExtraError: If `x` is given and scikit-learn is not installed.
    """
    right, predicted = as_bits("`y_true`", y_true), as_bits("`y_pred`", y_pred)
    if len(right) != len(predicted):
        raise InvalidInputError(
            f"`y_true` and `y_pred` must have the same length, but got {len(right)} and "
            f"{len(predicted)}"
        )
    check_confidence(confidence)
    levels = levels_of(sensitive, len(right), check_count("min_group_size", min_group_size))
    by_level = {
        level.key: {
            metric: gap_of(level, right, predicted, metric, confidence, len(levels))
            for metric in METRICS
        }
        for level in levels
    }
    macro = {metric: worst([gaps[metric] for gaps in by_level.values()]) for metric in METRICS}
    return FairnessReport(
        overall=_rates(right, predicted),
        by_level=by_level,
        rates={level.key: _by_group(level, right, predicted) for level in levels},
        macro=macro,
        worst_level={metric: _where(by_level, metric, macro[metric]) for metric in METRICS},
        micro_consistency=None if x is None else _consistency(x, predicted, neighbours),
        skipped=dict(skipped_of(levels)),
        confidence=confidence,
    )


def as_bits(name: str, values: ArrayLike) -> Bits:
    """Labels or predictions [N] that are 0 or 1, as booleans.

    Raises:
        InvalidInputError: If they are not, or there are none.
    """
    array = as_array(name, values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not array.size:
        raise InvalidInputError(f"{name} must have the shape [N], but got {array.shape}")
    others = array[~np.isin(array, (0, 1))]
    if others.size:
        raise InvalidInputError(
            f"{name} must be binary, 0 or 1, but holds {others[0]:g}; compare with the class that "
            f"is a benefit: values == 2, or scores >= 0.5"
        )
    return array.astype(bool)


def _rates(right: Bits, predicted: Bits) -> Rates:
    def share(rate: str) -> float:
        rows = rows_of(rate, right)
        return float(predicted[rows].mean()) if rows.any() else math.nan

    rates = {
        rate: share(rate) for rate in METRICS["demographic_parity"] + METRICS["equalized_odds"]
    }
    return Rates(len(right), float((right == predicted).mean()), **rates)


def _by_group(level: Level, right: Bits, predicted: Bits) -> dict[str, Rates]:
    return {
        name: _rates(right[level.codes == i], predicted[level.codes == i])
        for i, name in enumerate(level.names)
    }


def _where(by_level: Mapping[Key, Mapping[str, Gap]], metric: str, largest: Gap) -> Key | None:
    return next(
        (key for key, gaps in by_level.items() if gaps[metric].value == largest.value), None
    )


def _consistency(x: ArrayLike, predicted: Bits, neighbours: int) -> float:
    """1 - mean |prediction - mean of the k nearest others'| (Zemel et al. 2013, ICML)."""
    features, k = as_array("`x`", x), check_count("neighbours", neighbours)
    if features.ndim < 2 or len(features) != len(predicted) or k >= len(predicted):
        raise InvalidInputError(
            f"`x` must have the shape [{len(predicted)}, ...] with more samples than "
            f"neighbours={k}, but got {features.shape}"
        )
    if not np.isfinite(features).all():
        raise InvalidInputError("`x` must be finite, but holds NaN or infinities")
    nearest = require("sklearn.neighbors", extra="fairness")
    search = nearest.NearestNeighbors(n_neighbors=k).fit(features.reshape(len(features), -1))
    others = search.kneighbors(return_distance=False)
    return float(1 - np.abs(predicted - predicted[others].mean(axis=1)).mean())


def _label(key: Key) -> str:
    return key if isinstance(key, str) else " x ".join(key)


def _gap_text(gap: Gap, name: Callable[[str], str] = markdown) -> str:
    if not gap.defined:
        return "undefined"
    low, high = gap.interval
    above, below = map(name, gap.between)
    return f"{gap.value:.3f} ({low:.3f}, {high:.3f}), {above} above {below}"


def _rates_text(rates: Rates) -> list[str]:
    shares = asdict(rates)
    n = shares.pop("n")
    return [str(n), *("undefined" if math.isnan(v) else f"{v:.3f}" for v in shares.values())]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
