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

from rlhf_tune.gate.rows import SHARE, Row

if TYPE_CHECKING:
    from rlhf_tune.gate.npz import Samples
    from rlhf_tune.gate.spec import Spec
    from rlhf_tune.safety.measurement import Constraint


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


def _robust_accuracy(floor: float, evidence: Evidence) -> Iterator[Constraint]:
    import numpy as np

    samples = evidence.samples
    yield _robust("robust_accuracy", floor, evidence, np.ones(len(samples.y), dtype=bool))
    for name, labels in samples.groups.items():
        for group in np.unique(labels):
            yield _robust(f"robust_accuracy[{name}={group}]", floor, evidence, labels == group)


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
    ),
    Row("min_accuracy", SHARE, "floor without attack", "A", build=_accuracy),
    Row(
        "max_leakage",
        SHARE,
        "ceiling of the membership leakage",
        "L",
        build=_leakage,
        needs="members",
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
