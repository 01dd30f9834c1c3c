"""From a spec and its samples to constraints; a new kind of requirement is added here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rlhf_tune.errors import TooFewSamplesError
from rlhf_tune.gate.npz import Samples
from rlhf_tune.gate.spec import Spec
from rlhf_tune.safety import Constraint, MembershipLeakage, RobustAccuracy
from rlhf_tune.safety.non_inferiority import NonInferiority


def of_spec(
    spec: Spec, samples: Samples, members: Samples | None = None, baseline: Any = None
) -> list[Constraint]:
    """Every constraint that a spec asks for.

    Args:
        spec: What was asked.
        samples: Of ``spec.data``.
        members: Of ``spec.members``.
        baseline: The model of ``spec.baseline``.

    Raises:
        InvalidInputError: If a value does not fit the data.
        TooFewSamplesError: If even a perfect model could not pass with so few samples.
    """
    return list(_each(spec, samples, members, baseline))


def _each(
    spec: Spec, samples: Samples, members: Samples | None, baseline: Any
) -> Iterator[Constraint]:
    yield _robust("robust_accuracy", spec, samples, np.ones(len(samples.y), dtype=bool))
    for name, labels in samples.groups.items():
        for group in np.unique(labels):
            yield _robust(f"robust_accuracy[{name}={group}]", spec, samples, labels == group)
    if spec.min_accuracy is not None:
        check_enough("accuracy", len(samples.y), spec.min_accuracy, spec.confidence)
        yield _named("accuracy", _accuracy(spec, samples, spec.min_accuracy))
    if members is not None and spec.max_leakage is not None:
        check_enough("membership_leakage", len(samples.y), 1 - spec.max_leakage, spec.confidence)
        yield MembershipLeakage(
            (members.x, members.y),
            (samples.x, samples.y),
            at_most=spec.max_leakage,
            confidence=spec.confidence,
        )
    if baseline is not None and spec.margin is not None:
        yield NonInferiority(
            baseline,
            samples.x,
            samples.y,
            eps=spec.eps,
            margin=spec.margin,
            bounds=spec.bounds,
            confidence=spec.confidence,
            seed=spec.seed,
        )


def _robust(name: str, spec: Spec, samples: Samples, rows: Any) -> Constraint:
    check_enough(name, int(rows.sum()), spec.min_robust_accuracy, spec.confidence)
    constraint = RobustAccuracy(
        samples.x[rows],
        samples.y[rows],
        eps=spec.eps,
        at_least=spec.min_robust_accuracy,
        bounds=spec.bounds,
        confidence=spec.confidence,
        full=True,
        seed=spec.seed,
    )
    return _named(name, constraint)


def _accuracy(spec: Spec, samples: Samples, floor: float) -> Constraint:
    return RobustAccuracy(
        samples.x,
        samples.y,
        eps=0.0,
        at_least=floor,
        attack="noise",
        bounds=spec.bounds,
        confidence=spec.confidence,
    )


def _named(name: str, constraint: Constraint) -> Constraint:
    constraint.name = name
    return constraint


def check_enough(name: str, n: int, floor: float, confidence: float) -> None:
    """Raise `TooFewSamplesError` if n successes of n do not certify `floor`."""
    needed = math.ceil(math.log1p(-confidence) / math.log(floor))
    if n < needed:
        raise TooFewSamplesError(
            f"{name}: at least {needed} samples are needed to certify {floor:g} at "
            f"{confidence:.4g} confidence, but there are {n}"
        )
