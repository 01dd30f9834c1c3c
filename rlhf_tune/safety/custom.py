"""Constraints made of a function of the model, and of a constraint for each group."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.intervals import bootstrap_interval, check_confidence, proportion_interval
from rlhf_tune.safety.measurement import Constraint, Every, Kind, Measure, Measurement, measured


def constraint(
    name: str,
    measure: Callable[[Any], ArrayLike],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    confidence: float = 0.95,
) -> Constraint:
    """Turn a function of the model into a constraint.

    Args:
        name: The key of its measurements.
        measure: Returns one number, taken as exact; or one value per sample [N], of which the
            mean is bounded: booleans by the exact binomial bound, numbers by the bootstrap.
        at_least: The floor; give either this or `at_most`.
        at_most: The ceiling.
        confidence: Of the one-sided bound that decides.

    Raises:
        InvalidInputError: If not exactly one bound is given, or `confidence` is not in (0, 1).

    Example:
        >>> small = constraint("parameters", lambda model: model.size, at_most=1e6)
    """
    check_confidence(confidence)
    if at_least is not None and at_most is None:
        return _Measured(name, measure, at_least, "floor", confidence)
    if at_most is not None and at_least is None:
        return _Measured(name, measure, at_most, "ceiling", confidence)
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
        InvalidInputError: If there is no sample.

    Example:
        >>> by_group(age, lambda of: RobustAccuracy(x[of], y[of], eps=0.1, at_least=0.5))
    """
    labels = np.asarray(groups)
    if labels.ndim != 1 or not labels.size:
        raise InvalidInputError(
            f"`groups` must be one label per sample [N], but got the shape {labels.shape}"
        )
    parts = [(group, build(labels == group)) for group in np.unique(labels)]
    named: list[tuple[str, Measure]] = [(f"{part.name}[{group}]", part) for group, part in parts]
    return Every(named, f"{parts[0][1].name} by group")


@final
class _Measured(Constraint):
    """A function of the model with a bound; see `constraint`."""

    def __init__(
        self,
        name: str,
        measure: Callable[[Any], ArrayLike],
        bound: float,
        kind: Kind,
        confidence: float,
    ) -> None:
        self.name = name
        self._measure, self._bound, self._kind = measure, bound, kind
        self._confidence = confidence

    def __call__(self, model: Any) -> Measurement:
        values = np.asarray(self._measure(model))
        if values.ndim > 1 or values.size == 0:
            raise InvalidInputError(
                f"a measure must return one number or one value per sample [N], "
                f"but {self.name!r} returned the shape {values.shape}"
            )
        value = float(values.mean())
        interval = self._interval(values, value)
        return measured(self.name, value, self._bound, interval, values.size, kind=self._kind)

    def _interval(self, values: NDArray[Any], value: float) -> tuple[float, float]:
        if values.dtype == np.bool_ and values.ndim == 1:
            return proportion_interval(int(values.sum()), values.size, self._confidence)
        if values.ndim == 0 or not math.isfinite(value):
            return value, value
        return bootstrap_interval([values], np.mean, self._confidence)
