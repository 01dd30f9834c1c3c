"""Learns from a user's own earlier studies: their surfaces join those of the prior.

Each study gives a posterior over the surface of its problem, a mixture
(`rlhf_tune.study.surrogate`). Its likeliest components are listed beside the surfaces that the
package ships, which count for `WEIGHT` studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study import space
from rlhf_tune.study.expected_improvement import outlook
from rlhf_tune.study.history import History, common_space, is_preferential, read
from rlhf_tune.study.prior import RATES, SIZES, Places, Prior, axis_of
from rlhf_tune.study.process import Points

Floats = NDArray[np.float64]

# Not tuned:
WEIGHT = 8.0
"""How many studies of the user's the shipped surfaces are worth."""
MIN_TRIALS = 4
_COMPONENTS = 8  # of a study's posterior


@dataclass(frozen=True)
class Past:
    """What could be made of one study.

    Attributes:
        name: Of the study.
        trials: Complete ones.
        why_not: Why it is of no use; "" where it is.
        surfaces: [K, L, B] what its surface may be, in scales; 0 is its best trial.
        weights: [K] their probabilities.
    """

    name: str
    trials: int
    why_not: str
    surfaces: Floats
    weights: Floats


def read_study(study: Study, prior: Prior) -> Past:
    """A study's posterior surfaces; the study is only read."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]

    def useless(why: str) -> Past:
        return Past(study.study_name, len(complete), why, np.empty(0), np.empty(0))

    if len(study.directions) > 1:
        return useless("it has several objectives")
    if is_preferential(study):
        return useless("it is preferential: its values are placeholders")
    if len(complete) < MIN_TRIALS:
        return useless(f"it has fewer than {MIN_TRIALS} complete trials")
    lattice = space.lattice(common_space(complete), {})
    if axis_of(lattice, "learning_rate") is None and axis_of(lattice, "batch_size") is None:
        return useless("no parameter of all its trials is a learning rate or a batch size")
    history = read(complete, lattice, study.direction)
    if np.ptp(history.values) == 0:
        return useless("all its trials have the same value")
    model = outlook(history, prior).surrogate
    predicted = model.predict(_grid(history))
    surfaces = (predicted.means - history.values.max()) / model.scales[:, None]
    shape = (-1, len(RATES), len(SIZES))
    likeliest = slice(0, _COMPONENTS)
    weights = model.weights[likeliest] / model.weights[likeliest].sum()
    return Past(study.study_name, len(complete), "", surfaces[likeliest].reshape(shape), weights)


def update(prior: Prior, past: Sequence[Past]) -> Prior:
    """The prior, with the usable studies in its list.

    Raises:
        InvalidInputError: If no study is usable.
    """
    usable = [study for study in past if not study.why_not]
    if not usable:
        reasons = "; ".join(f"{study.name}: {study.why_not}" for study in past)
        raise InvalidInputError(
            "at least one study must be usable, but "
            + (f"none of {len(past)} is ({reasons})" if past else "the storage holds none")
        )
    shipped = WEIGHT * prior.weights / prior.weights.sum()
    return replace(
        prior,
        surfaces=np.concatenate([prior.surfaces, *(study.surfaces for study in usable)]),
        weights=np.concatenate([shipped, *(study.weights for study in usable)]),
    )


def _grid(history: History) -> Points:
    """[L x B] the prior's grid, with the other parameters of the best trial."""
    grid = np.stack(np.meshgrid(RATES, SIZES, indexing="ij"), axis=-1).reshape(-1, 2)
    features = np.repeat(history.features()[[int(history.values.argmax())]], len(grid), axis=0)
    axes = [axis_of(history.lattice, role) for role in ("learning_rate", "batch_size")]
    for column, axis in enumerate(axes):
        if axis is not None:
            features[:, axis] = grid[:, column]
    others = tuple(column for column in range(features.shape[1]) if column not in axes)
    return Points(Places.at(grid), features, features[:, others], others)
