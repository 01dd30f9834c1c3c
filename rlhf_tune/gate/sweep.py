"""The accuracy of a model over the radii of a sweep, and whether it takes the samples at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_tune.errors import InvalidInputError, RlhfTuneError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate.npz import Samples
from rlhf_tune.safety.attacks import Attack, AttackName
from rlhf_tune.safety.evaluation import Evaluation


@dataclass(frozen=True)
class Point:
    """Accuracy at one radius: under each attack, and under the worst of them per sample."""

    eps: float
    under: Mapping[str, float]
    worst: float


def sweep(
    model: Any,
    samples: Samples,
    radii: Iterable[float],
    attacks: Sequence[AttackName],
    *,
    bounds: tuple[float, float],
    seed: int = 0,
) -> list[Point]:
    """The accuracy of a model at each radius; of integers, radii below one step are left out.

    Raises:
        InvalidInputError: If a radius is outside the range of the data.
    """
    whole = samples.x.dtype.kind in "iu"
    wanted = [eps for eps in radii if not (whole and 0 < eps < 1)]
    points = []
    with framework_of(model).classifier(model) as classifier:
        evaluation = Evaluation(classifier, samples.x, samples.y)
        for eps in wanted:
            masks = {
                name: Attack.checked(name, samples.x, eps, bounds, seed=seed).survivors(evaluation)[
                    0
                ]
                for name in attacks
            }
            worst = np.logical_and.reduce(list(masks.values()))
            under: dict[str, float] = {name: float(mask.mean()) for name, mask in masks.items()}
            points.append(Point(eps, under, float(worst.mean())))
    return points


def check_accepts(model: Any, samples: Samples) -> None:
    """Raise `InvalidInputError` unless the model takes such inputs and knows every label."""
    rows = [0, int(samples.y.argmax())]
    try:
        with framework_of(model).classifier(model) as classifier:
            Evaluation(classifier, samples.x[rows], samples.y[rows])
    except RlhfTuneError:
        raise
    except Exception as exc:  # frameworks raise what they like for a wrong shape
        reason = " ".join(str(exc).split())[:200]
        raise InvalidInputError(
            f"the model must take batches of `x`, whose samples are {samples.x.dtype} of shape "
            f"{samples.x.shape[1:]}, but: {reason}"
        ) from exc
