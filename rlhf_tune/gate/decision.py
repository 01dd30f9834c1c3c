"""Measures a model against constraints, and gives the verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate.artifact import ModelFile, identity_of
from rlhf_tune.gate.report import GateReport, outcome_of, remark
from rlhf_tune.safety.measurement import (
    Measure,
    Measurement,
    check_distinct,
    measure_one,
    name_of,
)

Track = Callable[[Sequence[Measure]], Iterable[Measure]]


def check(
    model: Any,
    constraints: Measure | Iterable[Measure],
    *,
    factory: str | None = None,
) -> GateReport:
    """Measure every constraint on a model, and say whether it may be released.

    Args:
        model: A model in memory, or the path of its file.
        constraints: One or several, as `rlhf_tune.safety.RobustAccuracy(..., full=True)`.
        factory: ``package.module:function`` for a file that holds weights alone.

    Returns:
        A report whose `verdict` is "pass", "refused", "inconclusive" (too little evidence) or
        "untrusted" (evidence that contradicts itself).

    Raises:
        InvalidInputError: If there is no constraint, two have one name, or one does not fit; the
            first two are said before a model is read.
        ArtifactError: If the file is unsafe or unreadable.
        UnsupportedModelError: If the model cannot be measured.
    """
    wanted = _wanted(constraints)
    if isinstance(model, str | os.PathLike):
        model, identity = ModelFile.read(model).load(factory)
    else:
        identity = identity_of(model)
    return GateReport(measure(model, wanted), identity)


def assert_gate(
    model: Any, constraints: Measure | Iterable[Measure], *, factory: str | None = None
) -> GateReport:
    """For tests: `check`, and an AssertionError that lists what did not pass.

    Returns:
        The report, of which the verdict is "pass".
    """
    report = check(model, constraints, factory=factory)
    if report.verdict != "pass":
        lines = [
            f"{m.name}: {outcome_of(m)}: {remark(m)}"
            for m in report.measurements
            if outcome_of(m) != "pass"
        ]
        raise AssertionError("\n".join([f"the gate's verdict is {report.verdict!r}", *lines]))
    return report


def measure(
    model: Any, constraints: Measure | Iterable[Measure], track: Track = iter
) -> tuple[Measurement, ...]:
    """One measurement of each constraint.

    Args:
        model: A model in memory.
        constraints: One or several.
        track: Passes them on one by one, to show progress.

    Raises:
        InvalidInputError: If there is no constraint, two have one name, or one is none.
    """
    wanted = _wanted(constraints)
    found = tuple(
        measure_one(name_of(constraint), constraint, model) for constraint in track(wanted)
    )
    check_distinct([measurement.name for measurement in found])
    return found


def _wanted(constraints: Measure | Iterable[Measure]) -> list[Measure]:
    """The constraints, each of which can be called, and no two of one name."""
    if callable(constraints):
        wanted = [constraints]
    elif isinstance(constraints, Iterable) and not isinstance(constraints, str | bytes | Mapping):
        wanted = list(constraints)
    else:
        raise InvalidInputError(
            f"constraints must be one or a list of them, but got {type(constraints).__name__}"
        )
    if not wanted:
        raise InvalidInputError("at least one constraint must be given, but got none")
    for constraint in wanted:
        if not callable(constraint):
            raise InvalidInputError(
                f"a constraint must be a function of the model that returns a Measurement, as "
                f"those of rlhf_tune.safety, but got {type(constraint).__name__}"
            )
    check_distinct([constraint.name for constraint in wanted if hasattr(constraint, "name")])
    return wanted
