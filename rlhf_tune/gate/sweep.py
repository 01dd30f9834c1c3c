"""The accuracy of a model over the radii of a sweep, and whether it takes the samples at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_tune.errors import InvalidInputError, RlhfTuneError, UnsupportedModelError
from rlhf_tune.foreign import shortened
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate.npz import Samples
from rlhf_tune.safety.attacks import Attack, AttackName
from rlhf_tune.safety.evaluation import Evaluation, Outputs


@dataclass(frozen=True)
class Point:
    """Accuracy at one radius: under each attack, and under the worst of them per sample.

    Where a radius is given by feature, `eps` is a multiple of it.
    """

    eps: float
    under: Mapping[str, float]
    worst: float


def sweep(
    model: Any,
    samples: Samples,
    radii: Iterable[float],
    attacks: Sequence[AttackName],
    *,
    bounds: tuple[Any, Any],
    seed: int = 0,
    by_feature: Any = None,
    outputs: Outputs = "auto",
) -> list[Point]:
    """The accuracy of a model at each radius; of integers, radii below one step are left out.

    Args:
        model: Of any known framework.
        samples: That it is measured on.
        radii: Of the attacks; with `by_feature`, multiples of it.
        attacks: Of the curve.
        bounds: Range of the data.
        seed: Of the random starts.
        by_feature: Radii that fit a sample's shape.
        outputs: What the model's outputs are.

    Raises:
        InvalidInputError: If a radius is outside the range of the data.
    """
    whole = samples.x.dtype.kind in "iu"
    reach = {point: _reach(point, by_feature, bounds) for point in radii}
    points = []
    with framework_of(model).classifier(model) as classifier:
        evaluation = Evaluation(classifier, samples.x, samples.y, outputs=outputs)
        for point, eps in reach.items():
            if whole and np.any((np.asarray(eps) > 0) & (np.asarray(eps) < 1)):
                continue
            recipes = [Attack.checked(name, samples.x, eps, bounds, seed=seed) for name in attacks]
            masks = {recipe.name: recipe.survivors(evaluation)[0] for recipe in recipes}
            worst = np.logical_and.reduce(list(masks.values()))
            under: dict[str, float] = {name: float(mask.mean()) for name, mask in masks.items()}
            points.append(Point(point, under, float(worst.mean())))
    return points


def _reach(point: float, by_feature: Any, bounds: tuple[Any, Any]) -> Any:
    """The radius at a point of the sweep, by feature within the data's range."""
    if by_feature is None:
        return point
    low, high = (np.asarray(bound, float) for bound in bounds)
    return np.minimum(point * np.asarray(by_feature, float), high - low)


def check_accepts(model: Any, samples: Samples) -> None:
    """Raise `InvalidInputError` unless the model takes such inputs and knows every label."""
    rows = [0, int(samples.y.argmax())]
    try:
        with framework_of(model).classifier(model) as classifier:
            Evaluation(classifier, samples.x[rows], samples.y[rows])
    except UnsupportedModelError as exc:
        if exc.__cause__ is None or isinstance(exc.__cause__, RlhfTuneError):
            raise
        raise InvalidInputError(str(exc)) from exc  # its forward does not take such inputs
    except RlhfTuneError:
        raise
    except Exception as exc:  # frameworks raise what they like for a wrong shape
        raise InvalidInputError(
            f"the model must take batches of `x`, whose samples are {samples.x.dtype} of shape "
            f"{samples.x.shape[1:]}, but: {shortened(exc)}"
        ) from exc
