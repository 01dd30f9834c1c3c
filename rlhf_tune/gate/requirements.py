"""The requirements of a release: one row each, and the constraints made of it.

To add one, add its row to `REQUIREMENTS`, with a function that yields the constraints of its
value: the key of the spec file, the option with its help, the checks and the report follow. The
constraints are measured in the order of the rows. A row that reads further arrays of the data
file names them in `arrays`, and finds them in ``evidence.samples.arrays``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.gate.rows import SHARE, Floor, Row

if TYPE_CHECKING:
    from rlhf_tune.gate.npz import Samples
    from rlhf_tune.gate.spec import Spec
    from rlhf_tune.safety.measurement import Constraint

_SHOWN = 10  # of floors with too few samples


@dataclass(frozen=True)
class Evidence:
    """What constraints are made of.

    Attributes:
        spec: What was asked.
        samples: Of ``spec.data``.
        members: Of ``spec.members``.
        baseline: The model of ``spec.baseline``.
    """

    spec: Spec
    samples: Samples
    members: Samples | None = None
    baseline: Any = None


def of_evidence(evidence: Evidence) -> list[Constraint]:
    """Every constraint that the spec asks for.

    Raises:
        InvalidInputError: If a value does not fit the data.
        TooFewSamplesError: If even a perfect model could not pass with so few samples.
    """
    return [
        constraint
        for row in asked(evidence.spec)
        if row.build is not None
        for constraint in row.build(evidence.spec.requirements[row.name], evidence)
    ]


def asked(spec: Spec) -> list[Row]:
    """The rows of the requirements that a spec has."""
    return [row for row in REQUIREMENTS if spec.requirements.get(row.name) is not None]


def check_counts(spec: Spec, samples: Samples) -> None:
    """Raise `TooFewSamplesError` for all floors that not even a perfect model could certify."""
    from rlhf_tune.safety.intervals import check_enough

    few = []
    for row in asked(spec):
        for name, n, floor in row.floors(spec.requirements[row.name], samples):
            try:
                check_enough(name, n, floor, spec.confidence)
            except TooFewSamplesError as exc:
                few.append(str(exc))
    if few:
        more = [f"and {len(few) - _SHOWN} more"] if len(few) > _SHOWN else []
        raise TooFewSamplesError("; ".join([*few[:_SHOWN], *more]))


def _parts(samples: Samples) -> Iterator[tuple[str, Any]]:
    """The name of each floor under attack, of all and of each group, and its samples."""
    import numpy as np

    yield "robust_accuracy", np.arange(len(samples.y))
    for name, labels in samples.groups.items():
        for group in np.unique(labels):
            yield f"robust_accuracy[{name}={group}]", np.flatnonzero(labels == group)


def _robust_floors(floor: float, samples: Samples) -> Iterator[Floor]:
    from rlhf_tune.safety.samples import distinct_rows

    for name, rows in _parts(samples):
        yield name, len(distinct_rows(samples.x[rows], samples.y[rows])), floor


def _robust_accuracy(floor: float, evidence: Evidence) -> Iterator[Constraint]:
    for name, rows in _parts(evidence.samples):
        yield _robust(name, floor, evidence, rows)


def _robust(name: str, floor: float, evidence: Evidence, rows: Any) -> Constraint:
    from rlhf_tune.safety.robustness import RobustAccuracy

    spec, samples = evidence.spec, evidence.samples
    return RobustAccuracy(
        samples.x[rows],
        samples.y[rows],
        eps=spec.eps,
        at_least=floor,
        bounds=spec.bounds,
        confidence=spec.confidence,
        full=True,
        seed=spec.seed,
        outputs=spec.outputs,
        name=name,
    )


def _accuracy(floor: float, evidence: Evidence) -> Iterator[Constraint]:
    from rlhf_tune.safety.robustness import RobustAccuracy

    spec, samples = evidence.spec, evidence.samples
    yield RobustAccuracy(
        samples.x,
        samples.y,
        eps=0.0,
        at_least=floor,
        attack="noise",
        bounds=spec.bounds,
        confidence=spec.confidence,
        outputs=spec.outputs,
        name="accuracy",
    )


def _leakage(ceiling: float, evidence: Evidence) -> Iterator[Constraint]:
    from rlhf_tune.safety.leakage import MembershipLeakage

    spec, samples, members = evidence.spec, evidence.samples, evidence.members
    if members is not None:
        yield MembershipLeakage(
            (members.x, members.y),
            (samples.x, samples.y),
            at_most=ceiling,
            confidence=spec.confidence,
            outputs=spec.outputs,
        )


def _fairness(ceiling: float, evidence: Evidence) -> Iterator[Constraint]:
    from rlhf_tune.safety.fairness import GroupFairness

    spec, samples = evidence.spec, evidence.samples
    if not samples.groups:
        raise InvalidInputError(
            f"`max_unfairness` compares groups, but {spec.data.name!r} has none; save them as the "
            f"array groups, or name their arrays: --groups sex age"
        )
    if samples.y.max() > 1:
        raise InvalidInputError(
            f"`max_unfairness` needs labels that are 0 or 1, the benefit, but `y` has "
            f"{int(samples.y.max())}; rlhf_tune.gate.check with GroupFairness(positive=...) takes "
            f"models of several classes"
        )
    yield GroupFairness(
        samples.x,
        samples.y,
        samples.groups,
        at_most=ceiling,
        metric=spec.unfairness_metric,
        confidence=spec.confidence,
        outputs=spec.outputs,
    )


def _non_inferiority(margin: float, evidence: Evidence) -> Iterator[Constraint]:
    from rlhf_tune.safety.non_inferiority import NonInferiority

    spec, samples = evidence.spec, evidence.samples
    if evidence.baseline is not None:
        yield NonInferiority(
            evidence.baseline,
            samples.x,
            samples.y,
            eps=spec.eps,
            margin=margin,
            bounds=spec.bounds,
            confidence=spec.confidence,
            seed=spec.seed,
            outputs=spec.outputs,
            name="non_inferiority",
        )


REQUIREMENTS = (
    Row(
        "min_robust_accuracy",
        SHARE,
        "floor under the worst attack",
        "A",
        required=True,
        build=_robust_accuracy,
        floors=_robust_floors,
    ),
    Row(
        "min_accuracy",
        SHARE,
        "floor without attack",
        "A",
        build=_accuracy,
        floors=lambda floor, samples: [("accuracy", len(samples.y), floor)],
    ),
    Row(
        "max_leakage",
        SHARE,
        "ceiling of the membership leakage",
        "L",
        build=_leakage,
        floors=lambda ceiling, samples: [("membership_leakage", len(samples.y), 1 - ceiling)],
        needs="members",
    ),
    Row(
        "max_unfairness",
        SHARE,
        "ceiling of the gap between groups, and between intersections of several --groups",
        "U",
        build=_fairness,
    ),
    Row(
        "margin",
        SHARE,
        "robust accuracy that may be lost to OLD_MODEL",
        "D",
        build=_non_inferiority,
        needs="baseline",
    ),
)
