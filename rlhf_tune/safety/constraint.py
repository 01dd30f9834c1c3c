"""Measurements with a bound, an exact interval and a cost: the currency of every constraint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.intervals import bootstrap_interval, check_confidence, proportion_interval

Kind = Literal["floor", "ceiling"]


@dataclass(frozen=True)
class Measurement:
    """One measured property of a model, and whether it keeps its bound.

    Attributes:
        name: The key under which a study or report lists it.
        value: The point estimate, in the measure's units.
        bound: The floor or ceiling asked for, in the same units.
        interval: One-sided lower and upper confidence bounds of the value.
        n: Number of samples behind the value.
        cost: How far the confidence bound misses: for a floor ``bound - low``, for a ceiling
            ``high - bound``; ``<= 0`` is satisfied. An untrusted measurement costs ``inf``.
        trusted: False when the evidence itself is in doubt.
        reasons: Why it is not trusted, one sentence each.
        details: Further figures by name.
        kind: Whether the bound is a floor or a ceiling.
    """

    name: str
    value: float
    bound: float
    interval: tuple[float, float]
    n: int
    cost: float
    trusted: bool = True
    reasons: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
    kind: Kind = "floor"

    @property
    def satisfied(self) -> bool:
        """Whether the bound is kept at the measurement's confidence; never if untrusted."""
        return self.cost <= 0


class Constraint(ABC):
    """Measures a model against a bound; ``a & b`` asks for both.

    Attributes:
        name: The key of its measurements.
    """

    name: str

    @abstractmethod
    def __call__(self, model: Any) -> Measurement:
        """Measure `model`, leaving it as it was."""

    def __and__(self, other: Callable[[Any], Measurement]) -> Constraint:
        return _All([(_name(part), part) for part in (self, other)])

    def __rand__(self, other: Callable[[Any], Measurement]) -> Constraint:
        return _All([(_name(part), part) for part in (other, self)])


def measure_all(constraints: Sequence[Constraint], model: Any) -> dict[str, Measurement]:
    """Measure every constraint on a model; keyed by the measurements' names.

    Raises:
        InvalidInputError: If two constraints have the same name.
    """
    measurements = [constraint(model) for constraint in constraints]
    by_name = {m.name: m for m in measurements}
    if len(by_name) < len(measurements):
        names = [m.name for m in measurements]
        raise InvalidInputError(
            f"constraints must have different names, but got {names}; name them apart"
        )
    return by_name


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
    return _All(named, f"{parts[0][1].name} by group")


def measured(
    name: str,
    value: float,
    bound: float,
    interval: tuple[float, float],
    n: int,
    *,
    kind: Kind,
    reasons: Sequence[str] = (),
    details: Mapping[str, float] | None = None,
) -> Measurement:
    """Build a `Measurement`, deriving its cost; any entry in `reasons` makes it untrusted."""
    low, high = interval
    cost = bound - low if kind == "floor" else high - bound
    if not (math.isfinite(value) and math.isfinite(cost)):
        reasons = (*reasons, "the value is not finite")
    return Measurement(
        name=name,
        value=value,
        bound=bound,
        interval=interval,
        n=n,
        cost=math.inf if reasons else cost,
        trusted=not reasons,
        reasons=tuple(reasons),
        details=dict(details or {}),
        kind=kind,
    )


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


Measure = Callable[[Any], Measurement]


@final
class _All(Constraint):
    """Several constraints at once, each with a label; the worst one speaks for all."""

    def __init__(self, parts: Sequence[tuple[str, Measure]], name: str | None = None) -> None:
        self._parts = parts
        self.name = name or " & ".join(label for label, _ in parts)

    def __call__(self, model: Any) -> Measurement:
        parts = [(label, part(model)) for label, part in self._parts]
        worst = max((part for _, part in parts), key=lambda part: part.cost)
        details = {
            key: figure
            for label, part in parts
            for key, figure in {
                label: part.value,
                f"{label}.cost": part.cost,
                **{f"{label}.{key}": figure for key, figure in part.details.items()},
            }.items()
        }
        return replace(
            worst,
            name=self.name,
            trusted=all(part.trusted for _, part in parts),
            reasons=tuple(f"{label}: {why}" for label, part in parts for why in part.reasons),
            details=details,
        )


def _name(part: Measure) -> str:
    return getattr(part, "name", str(part))
