"""Measurements with a bound, an exact interval and a cost: the currency of every constraint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, final

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.tabled import Tabled

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy
    from rlhf_tune.tables import Table

Kind = Literal["floor", "ceiling"]


@dataclass(frozen=True)
class Measurement(Tabled):
    """One measured property of a model, and whether it keeps its bound; prints as a table.

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
        notes: What a reader should know that costs no trust, one sentence each.
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
    notes: tuple[str, ...] = ()

    @property
    def satisfied(self) -> bool:
        """Whether the bound is kept at the measurement's confidence; never if untrusted."""
        return self.cost <= 0

    @property
    def missed(self) -> float:
        """The cost as if the measurement were trusted."""
        low, high = self.interval
        return self.bound - low if self.kind == "floor" else high - self.bound

    def table(self) -> Table:
        """A single row."""
        from rlhf_tune.safety.listing import listed, verdict_of  # few ask for it

        return listed([self], [verdict_of(self)])


Measure = Callable[[Any], Measurement]


class Constraint(ABC):
    """Measures a model against a bound; ``a & b`` asks for both.

    Attributes:
        name: The key of its measurements.
    """

    name: str

    @abstractmethod
    def __call__(self, model: Any) -> Measurement:
        """Measure `model`, leaving it as it was."""

    def remedy(self) -> Remedy | None:
        """A term of the training loss that moves what is measured; None where there is none."""
        return None

    def halves(self, candidates: int) -> tuple[Measure, Measure]:
        """Two measures of the same name and bound: one that steers a run, one that certifies.

        A measure whose samples cannot be divided is both.

        Args:
            candidates: How many models at most the second one will be asked about, the first that
                passes being taken; its confidence makes up for that.
        """
        return self, self

    def __and__(self, other: Measure) -> Constraint:
        return Every([*_parts(self), *_parts(other)])

    def __rand__(self, other: Measure) -> Constraint:
        return Every([*_parts(other), *_parts(self)])


def measure_all(constraints: Sequence[Measure], model: Any) -> dict[str, Measurement]:
    """Measure every constraint on a model; keyed by the measurements' names.

    Raises:
        InvalidInputError: If two constraints have the same name.
    """
    found = [measure_one(name_of(each), each, model) for each in check_constraints(constraints)]
    check_distinct([measurement.name for measurement in found])
    return {measurement.name: measurement for measurement in found}


def halves_of(measure: Measure, candidates: int) -> tuple[Measure, Measure]:
    """Its `Constraint.halves`; a plain function is both."""
    return measure.halves(candidates) if isinstance(measure, Constraint) else (measure, measure)


def check_constraints(constraints: Any) -> tuple[Measure, ...]:
    """As a tuple; raise `InvalidInputError` if it is no list of them, or two have one name."""
    if not isinstance(constraints, Iterable):
        raise InvalidInputError(f"`constraints` must be a list, as [a], but got {constraints!r}")
    known = tuple(constraints)
    check_distinct([name_of(each) for each in known])
    return known


def name_of(measure: Measure) -> str:
    """The name of a constraint, or of a plain function; `InvalidInputError` if it is neither."""
    if not callable(measure):
        raise InvalidInputError(f"constraints must be functions of a model, but got {measure!r}")
    name = getattr(measure, "name", getattr(measure, "__name__", type(measure).__name__))
    return check_text(name)


def measure_one(name: str, measure: Measure, model: Any) -> Measurement:
    """What a constraint measures on a model; of what it raises, a note says whose it is.

    Raises:
        InvalidInputError: If it returns no measurement.
    """
    try:
        found: Any = measure(model)
    except Exception as exc:
        exc.add_note(f"raised by the constraint {name!r}")
        raise
    if not isinstance(found, Measurement):
        got = f"{name!r} returned {type(found).__name__}; constraint(name, function, ...) makes one"
        raise InvalidInputError(f"a constraint must return a Measurement, but {got}")
    return found


def check_name(name: str | None, usual: str) -> str:
    """The name that was given, else the usual one.

    Raises:
        InvalidInputError: If it is no text, or empty.
    """
    return usual if name is None else check_text(name)


def check_text(name: Any) -> str:
    """Return `name`; raise `InvalidInputError` unless it is a text that is not empty."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidInputError(f"`name` must be a text, but got {name!r}")
    return name


def check_distinct(names: Sequence[str]) -> None:
    """Raise `InvalidInputError` if two constraints have one name."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InvalidInputError(
            f"constraints must have different names, but got {twice} more than once; "
            f"give each a name of its own: name='...'"
        )


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
    notes: Sequence[str] = (),
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
        notes=tuple(notes),
    )


@final
class Every(Constraint):
    """Several constraints at once, each with a label of its own; the worst one speaks for all.

    The details have the value and the cost of each part, and the part's own details, after its
    label.
    """

    def __init__(self, parts: Sequence[tuple[str, Measure]], name: str | None = None) -> None:
        check_distinct([label for label, _ in parts])
        check_distinct([key for label, _ in parts for key in (label, f"{label}.cost")])
        self.parts, self._named = parts, name is not None
        self.name = name or " & ".join(label for label, _ in parts)

    @property
    def unpacked(self) -> Sequence[tuple[str, Measure]]:
        """The parts to ask for together with others; itself where it has a name of its own."""
        return [(self.name, self)] if self._named else self.parts

    def halves(self, candidates: int) -> tuple[Constraint, Constraint]:
        """Of all parts; itself twice where none can be divided."""
        pairs = [(label, halves_of(part, candidates)) for label, part in self.parts]
        if all(steers is certifies for _, (steers, certifies) in pairs):
            return self, self
        name = self.name if self._named else None
        return (
            Every([(label, steers) for label, (steers, _) in pairs], name),
            Every([(label, certifies) for label, (_, certifies) in pairs], name),
        )

    def __call__(self, model: Any) -> Measurement:
        """Measure each part, leaving `model` as it was."""
        parts = [(label, measure_one(label, part, model)) for label, part in self.parts]
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
            notes=tuple(f"{label}: {note}" for label, part in parts for note in part.notes),
        )


def _parts(part: Measure) -> Sequence[tuple[str, Measure]]:
    return part.unpacked if isinstance(part, Every) else [(name_of(part), part)]
