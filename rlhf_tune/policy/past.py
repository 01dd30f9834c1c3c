"""Learns from a user's own earlier studies: the prior, moved towards what they found.

Each study gives a posterior over the surface of its problem. The new mean and covariance are
those of these surfaces, with the shipped prior counting for `WEIGHT` studies (one step of
expectation maximisation for a hierarchical Gaussian process; Schwaighofer, Tresp and Yu 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from rlhf_tune import space
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.history import History, common_space, read
from rlhf_tune.policy.acquisition import outlook
from rlhf_tune.prior import RATES, SIZES, Prior, axis_of
from rlhf_tune.surrogate import Points

Floats = NDArray[np.float64]

WEIGHT = 8.0
"""How many studies of the user's the shipped prior is worth."""
MIN_TRIALS = 4


@dataclass(frozen=True)
class Past:
    """What could be made of one study.

    Attributes:
        name: Of the study.
        trials: Complete ones.
        why_not: Why it is of no use; "" where it is.
        mean: [G] its surface over learning rate x batch size, in scales; 0 is its best.
        covariance: [G, G] the doubt about it.
    """

    name: str
    trials: int
    why_not: str
    mean: Floats
    covariance: Floats


def read_study(study: Study, prior: Prior) -> Past:
    """A study's posterior surface; the study is only read."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]

    def useless(why: str) -> Past:
        return Past(study.study_name, len(complete), why, np.empty(0), np.empty(0))

    if len(study.directions) > 1:
        return useless("it has several objectives")
    if len(complete) < MIN_TRIALS:
        return useless(f"it has fewer than {MIN_TRIALS} complete trials")
    lattice = space.lattice(common_space(complete), {})
    if axis_of(lattice, "learning_rate") is None and axis_of(lattice, "batch_size") is None:
        return useless("no parameter of all its trials is a learning rate or a batch size")
    history = read(complete, lattice, study.direction)
    if np.ptp(history.values) == 0:
        return useless("all its trials have the same value")
    model, grid = outlook(history, prior).surrogate, _grid(prior, history)
    mean = (model.predict(grid).mean - history.values.max()) / model.scale
    covariance = model.covariance(grid) / model.scale**2
    return Past(study.study_name, len(complete), "", mean, _without_offset(covariance))


def update(prior: Prior, past: Sequence[Past]) -> Prior:
    """The prior, moved towards the usable studies.

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
    rank = len(prior.factors)
    old_mean, factors = prior.mean.ravel(), prior.factors.reshape(rank, -1)
    total = WEIGHT + len(usable)
    mean = (WEIGHT * old_mean + sum(study.mean for study in usable)) / total
    moved = old_mean - mean
    covariance = WEIGHT * (factors.T @ factors + np.outer(moved, moved))
    for study in usable:
        moved = study.mean - mean
        covariance += study.covariance + np.outer(moved, moved)
    values, vectors = np.linalg.eigh(covariance / total)
    leading = np.sqrt(np.maximum(values[-rank:], 0))[:, None] * vectors[:, -rank:].T
    shape = prior.mean.shape
    return replace(prior, mean=mean.reshape(shape), factors=leading.reshape(rank, *shape))


def _grid(prior: Prior, history: History) -> Points:
    """[G] the prior's grid, with the other parameters of the best trial."""
    rates, sizes = (axis.ravel() for axis in np.meshgrid(RATES, SIZES, indexing="ij"))
    features = np.repeat(history.features()[[int(history.values.argmax())]], len(rates), axis=0)
    learned = [
        (axis_of(history.lattice, "learning_rate"), rates),
        (axis_of(history.lattice, "batch_size"), sizes),
    ]
    for axis, column in learned:
        if axis is not None:
            features[:, axis] = column
    axes = {axis for axis, _ in learned}
    others = features[:, [column for column in range(features.shape[1]) if column not in axes]]
    factors = prior.factors.reshape(len(prior.factors), -1).T
    return Points(prior.mean.ravel(), factors, features, others)


def _without_offset(covariance: Floats) -> Floats:
    """The covariance [G, G] of surfaces from which their own mean is taken."""
    rows = covariance.mean(axis=0)
    return np.asarray(covariance - rows - rows[:, None] + rows.mean())
