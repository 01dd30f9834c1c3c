"""Constraints made of a function of the model, and of a constraint for each group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.intervals import check_confidence, mean_interval, proportion_interval
from rlhf_tune.safety.measurement import (
    Constraint,
    Every,
    Kind,
    Measure,
    Measurement,
    check_name,
    measured,
)

_FEWEST = 50  # values of an unknown range: with fewer, one in ten that is large is often not seen
_SAY = "declare it: constraint(..., within=(low, high))"


def constraint(
    name: str,
    measure: Callable[[Any], ArrayLike],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> Constraint:
    """Turn a function of the model into a constraint.

    Args:
        name: The key of its measurements.
        measure: Returns one number, taken as exact; or one value per sample [N], an array or
            tensor, of which the mean is bounded. Values that are all 0 or 1 are a proportion and
            have the exact binomial bound, whatever their type.
        at_least: The floor; give either this or `at_most`.
        at_most: The ceiling.
        within: The range that other values keep, whatever the model. With it the bound holds at
            every n (`rlhf_tune.safety.intervals.mean_interval`). Without it no bound can: then
            at least 50 values are asked for that are not all equal, what was not seen is taken to
            lie within half their span beyond them, and a note says so.
        confidence: Of the one-sided bound that decides.

    Raises:
        InvalidInputError: If not exactly one bound is given, or an argument breaks its rule.

    Example:
        >>> small = constraint("parameters", lambda model: model.size, at_most=1e6)
    """
    check_name("" if name is None else name, "")
    check_confidence(confidence)
    if within is not None and not (len(within) == 2 and within[0] < within[1]):
        raise InvalidInputError(f"`within` must be (low, high) with low < high, but got {within}")
    if at_least is not None and at_most is None:
        return _Measured(name, measure, at_least, "floor", within, confidence)
    if at_most is not None and at_least is None:
        return _Measured(name, measure, at_most, "ceiling", within, confidence)
    raise InvalidInputError(
        f"exactly one of `at_least` and `at_most` must be given, "
        f"but got at_least={at_least}, at_most={at_most}"
    )


def by_group(groups: ArrayLike, build: Callable[[NDArray[np.bool_]], Constraint]) -> Constraint:
    """One constraint a group, all of which must pass: the worst group speaks for all.

    As all must pass, no correction for multiple testing is needed. Each group's value and cost
    are in the measurement's details, as ``name[group]``.

    Args:
        groups: [N] the group of each sample.
        build: Makes the constraint of the samples with the mask [N].

    Raises:
        InvalidInputError: If there is no sample, or a group is None or NaN.

    Example:
        >>> by_group(age, lambda of: RobustAccuracy(x[of], y[of], eps=0.1, at_least=0.5))
    """
    labels = _labels(groups)
    parts = [(group, build(labels == group)) for group in np.unique(labels)]
    named: list[tuple[str, Measure]] = [(f"{part.name}[{group}]", part) for group, part in parts]
    return Every(named, f"{parts[0][1].name} by group")


def _labels(groups: ArrayLike) -> NDArray[Any]:
    """The group of each sample [N], none of them missing."""
    labels = np.asarray(groups)
    if labels.ndim != 1 or not labels.size:
        raise InvalidInputError(
            f"`groups` must be one label per sample [N], but got the shape {labels.shape}"
        )
    given: list[Any] = labels.tolist() if isinstance(groups, np.ndarray) else list(groups)  # type: ignore[arg-type]
    missing = sum(label is None or label != label for label in given)  # NaN is not itself
    if missing:
        raise InvalidInputError(
            f"each sample must have a group, but {missing} of {len(given)} are None or NaN; "
            f"give them a name, as 'unknown', or leave these samples out"
        )
    texts = sum(isinstance(label, str) for label in given)
    if 0 < texts < len(given):
        raise InvalidInputError(
            f"groups must be all text or all numbers, but {texts} of {len(given)} are text: "
            f"1 and '1' would be one group"
        )
    return labels


@final
class _Measured(Constraint):
    """A function of the model with a bound; see `constraint`."""

    def __init__(
        self,
        name: str,
        measure: Callable[[Any], ArrayLike],
        bound: float,
        kind: Kind,
        within: tuple[float, float] | None,
        confidence: float,
    ) -> None:
        self.name = name
        self._measure, self._bound, self._kind = measure, bound, kind
        self._within, self._confidence = within, confidence

    def __call__(self, model: Any) -> Measurement:
        """Measure `model`."""
        values = as_array(f"what {self.name!r} measures", self._measure(model))
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim > 1 or values.size == 0:
            raise InvalidInputError(
                f"a measure must return one number or one value per sample [N], "
                f"but {self.name!r} returned the shape {values.shape}"
            )
        values = values.astype(np.float64)
        value = float(values.mean())
        interval, reasons, notes = self._evidence(values, value)
        return measured(
            self.name,
            value,
            self._bound,
            interval,
            values.size,
            kind=self._kind,
            reasons=reasons,
            notes=notes,
        )

    def _evidence(
        self, values: NDArray[np.float64], value: float
    ) -> tuple[tuple[float, float], list[str], list[str]]:
        """The interval of the mean, why it cannot be trusted, and what to know of it."""
        exact = value, value
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).sum())
            return exact, [], [f"{wrong} of {values.size} values are NaN or infinite"]
        if values.ndim == 0:
            return exact, [], []
        n = values.size
        if np.isin(values, (0.0, 1.0)).all() and self._within in (None, (0, 1)):
            return proportion_interval(int(values.sum()), n, self._confidence), [], []
        if self._within is not None:
            return mean_interval(values, self._confidence, *self._within), [], []
        low, high = float(values.min()), float(values.max())
        if low == high:
            return (
                exact,
                [f"all {n} values are {low:g}, which proves nothing of others; {_SAY}"],
                [],
            )
        beyond = (high - low) / 2
        interval = mean_interval(values, self._confidence, low - beyond, high + beyond)
        if n < _FEWEST:
            return interval, [f"{n} values are too few where their range is not known; {_SAY}"], []
        note = (
            f"the interval supposes that no value lies beyond ({low - beyond:g}, {high + beyond:g})"
        )
        return interval, [], [f"{note}; {_SAY}"]
