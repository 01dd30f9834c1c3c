"""Constraints made of a function of the model, and of a constraint for each group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.groups import check_labels
from rlhf_tune.safety.intervals import check_confidence, mean_interval, proportion_interval
from rlhf_tune.safety.measurement import (
    Constraint,
    Every,
    Kind,
    Measure,
    Measurement,
    check_text,
    measured,
    name_of,
)
from rlhf_tune.safety.samples import as_number

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy

_FEWEST = 100  # values of an unknown range: with fewer, one in 30 that is large is often not seen
_SAY = "declare it: constraint(..., within=(low, high))"
_ROUNDING = 1e-6  # of a range: what float32 may be beyond it


def constraint(
    name: str,
    measure: Callable[[Any], ArrayLike],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
    confidence: float = 0.95,
    remedy: Remedy | None = None,
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
            at least 100 values are asked for that are not all equal, what was not seen is taken to
            lie within half their span beyond them or within (0, 1), and a note says so.
        confidence: Of the one-sided bound that decides.
        remedy: A term of the training loss that moves what is measured; a run under `reach=True`
            moves its weights.

    Raises:
        InvalidInputError: If not exactly one bound is given, or an argument breaks its rule.

    Example:
        >>> small = constraint("parameters", lambda model: model.size, at_most=1e6)
    """
    check_text(name)
    if not callable(measure):
        raise InvalidInputError(
            f"`measure` must be a function of the model, but got {type(measure).__name__}"
        )
    if (at_least is None) == (at_most is None):
        raise InvalidInputError(
            f"exactly one of `at_least` and `at_most` must be given, "
            f"but got at_least={at_least}, at_most={at_most}"
        )
    kind: Kind = "ceiling" if at_least is None else "floor"
    word, given = ("`at_most`", at_most) if at_least is None else ("`at_least`", at_least)
    bound = as_number(word, given)
    if not np.isfinite(bound):
        raise InvalidInputError(f"{word} must be finite, but got {bound}")
    known = _range(within)
    return _Measured(name, measure, bound, kind, known, check_confidence(confidence), remedy)


def _range(within: Any) -> tuple[float, float] | None:
    if within is None:
        return None
    try:
        low, high = (as_number("an end of `within`", end) for end in within)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"`within` must be (low, high), but got {within!r}") from exc
    if not (low < high and np.isfinite(high - low)):
        raise InvalidInputError(
            f"`within` must be (low, high) with low < high, both finite, but got {within!r}"
        )
    return low, high


def by_group(groups: ArrayLike, build: Callable[[NDArray[np.bool_]], Constraint]) -> Constraint:
    """One constraint a group, all of which must pass: the worst group speaks for all.

    As all must pass, no correction for multiple testing is needed. Each group's value and cost
    are in the measurement's details, as ``name[group]``.

    Args:
        groups: [N] the group of each sample.
        build: Makes the constraint of the samples with the mask [N].

    Raises:
        InvalidInputError: If there is no sample, a group is None or NaN, or groups cannot be told
            apart.

    Example:
        >>> by_group(age, lambda of: RobustAccuracy(x[of], y[of], eps=0.1, at_least=0.5))
    """
    labels = check_labels("`groups`", groups)
    named: list[tuple[str, Measure]] = []
    for group in np.unique(labels):
        part = build(labels == group)
        if not callable(part):
            raise InvalidInputError(
                f"`build` must return a constraint, but for the group {group} it returned "
                f"{type(part).__name__}"
            )
        named.append((f"{name_of(part)}[{group}]", part))
    return Every(named, f"{name_of(named[0][1])} by group")


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
        remedy: Remedy | None,
    ) -> None:
        self.name, self._remedy = name, remedy
        self._measure, self._bound, self._kind = measure, bound, kind
        self._within, self._confidence = within, confidence

    def remedy(self) -> Remedy | None:
        """The one it was given."""
        return self._remedy

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
        with np.errstate(over="ignore", invalid="ignore"):  # said by `measured`
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
        values = self._without_rounding(values)
        if np.isin(values, (0.0, 1.0)).all() and self._within in (None, (0, 1)):
            return proportion_interval(int(values.sum()), n, self._confidence), [], []
        if not np.isfinite(value):
            return exact, [], ["the values are too large for a mean"]
        if self._within is not None:
            return mean_interval(values, self._confidence, *self._within), [], []
        return self._guess(values, value)

    def _without_rounding(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """A softmax of float32 may be 1.0000001."""
        if self._within is None:
            return values
        low, high = self._within
        inside = np.clip(values, low, high)
        near = np.abs(values - inside) <= _ROUNDING * (high - low)
        return np.where(near, inside, values)

    def _guess(
        self, values: NDArray[np.float64], value: float
    ) -> tuple[tuple[float, float], list[str], list[str]]:
        """What is said where no range is declared.

        It is taken to have (0, 1) in it: sixty values that are nearly 1 must not certify more than
        sixty that are 1.
        """
        n, low, high = values.size, float(values.min()), float(values.max())
        if low == high:
            seen = f"that all {n} values are {low:g}" if n > 1 else f"one value ({low:g})"
            remedy = _SAY if n > 1 else f"return float(value) if it is exact, or {_SAY}"
            return (value, value), [f"{seen} proves nothing of others; {remedy}"], []
        beyond = high / 2 - low / 2
        low, high = min(0.0, low - beyond), max(1.0, high + beyond)
        if not np.isfinite(high - low):
            return (value, value), [f"the values are too large for an interval; {_SAY}"], []
        interval = mean_interval(values, self._confidence, low, high)
        if n < _FEWEST:
            return interval, [f"{n} values are too few where their range is not known; {_SAY}"], []
        note = f"the interval supposes that no value lies beyond ({low:g}, {high:g})"
        return interval, [], [f"{note}; {_SAY}"]
