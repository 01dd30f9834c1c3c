"""What a reward model sees of outcomes, and the posterior of what each feature is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from rlhf_tune.feedback.laplace import Gaussian, posterior

Array = NDArray[np.float64]

# Not tuned:
_PRECISIONS = (0.25, 1.0, 4.0)  # of the prior of weights; the evidence chooses
_BENT_PRECISIONS = (0.1, 1.0, 10.0, 100.0)  # the same, of the bent features
_CONTEXT = 4.0  # times as precise is the prior of what differs between contexts
_BENT = 64  # random features of a member
_FAR = 16.0  # usual deviations: what lies beyond is as good as diverged
_TAIL = 6.0  # deviations from which outcomes count by their logarithm


@dataclass(frozen=True, eq=False)
class Scaling:
    """How outcomes are put on one scale: deviations from the usual one, long tails drawn in.

    Attributes:
        center: [D] the usual outcome.
        scale: [D] a deviation.
    """

    center: Array
    scale: Array

    @classmethod
    def of(cls, outcomes: Array) -> Self:
        """Of outcomes [N, D], without letting a few that diverged stretch it."""
        low, center, high = np.quantile(outcomes, [0.16, 0.5, 0.84], axis=0)
        most = np.where(high > low, _FAR * (high - low) / 2, np.inf)
        spread = np.clip(outcomes, center - most, center + most).std(axis=0)
        return cls(center, np.where(spread > 0, spread, 1.0))

    def __call__(self, outcomes: Array) -> Array:
        """[N, D] scaled."""
        z = (outcomes - self.center) / self.scale
        beyond = np.maximum(np.abs(z) - _TAIL, 0)
        return np.asarray(np.sign(z) * (np.minimum(np.abs(z), _TAIL) + np.log1p(beyond)))


@dataclass(frozen=True, eq=False)
class Bent:
    """H features tanh(z . turns + shifts) of scaled outcomes z [D].

    Attributes:
        turns: [D, H]
        shifts: [H]
    """

    turns: Array
    shifts: Array

    def features(self, z: Array) -> Array:
        """[N, D + H] the outcomes themselves and the bent ones; all 0 at the usual outcome."""
        bent = np.tanh(z @ self.turns + self.shifts) - np.tanh(self.shifts)
        return np.concatenate([z, bent], axis=1)


def bent_maps(width: int, members: int, seed: int) -> list[Bent]:
    """Of each member of an ensemble; a single one without bent features where there is none."""
    if not members:
        return [Bent(np.zeros((width, 0)), np.zeros(0))]
    rng = np.random.default_rng(seed)
    return [
        Bent(rng.normal(size=(width, _BENT)) / math.sqrt(width), rng.normal(size=_BENT))
        for _ in range(members)
    ]


@dataclass(frozen=True, eq=False)
class Member:
    """One map of features with the posterior of their weights.

    Attributes:
        bent: The map.
        belief: Over the weights: those of all contexts, then what each context adds.
    """

    bent: Bent
    belief: Gaussian

    def design(self, z: Array, uses: Array) -> Array:
        """[N, F (1 + C)] the features of scaled outcomes [N, D], used in contexts [N, C]."""
        return _design(self.bent, z, uses)

    def slopes(self, z: Array, use: Array) -> Array:
        """[N, D] of the utility at scaled outcomes [N, D], used in a context [C]."""
        shares = np.concatenate([[1.0], use])
        own = shares @ self.belief.mean.reshape(len(shares), -1)
        steep = 1 - np.tanh(z @ self.bent.turns + self.bent.shifts) ** 2
        straight, bending = own[: z.shape[1]], own[z.shape[1] :]
        return np.asarray(straight + steep @ (self.bent.turns * bending).T)


def _design(bent: Bent, z: Array, uses: Array) -> Array:
    features = bent.features(z)
    return np.concatenate([features, *(use[:, None] * features for use in uses.T)], axis=1)


def learn(bent: Bent, a: Array, b: Array, uses: Array, answers: Array, weights: Array) -> Member:
    """A member, with the prior of the largest evidence.

    Args:
        bent: Its map of features.
        a: [N, D] scaled outcomes.
        b: [N, D] those that they were compared with.
        uses: [N, C] the contexts.
        answers: [N] 1 where `a` is preferred, .5 for a tie.
        weights: [N] how often each counts.
    """
    rows = _design(bent, a, uses) - _design(bent, b, uses)
    priors = _priors(a.shape[1], len(bent.shifts), uses.shape[1])
    beliefs = (posterior(rows, answers, prior, weights) for prior in priors)
    return Member(bent, max(beliefs, key=lambda belief: belief.evidence))


def _priors(width: int, bent: int, contexts: int) -> Iterator[Array]:
    """The precisions [F (1 + C), F (1 + C)] of the priors to choose from."""
    for straight in _PRECISIONS:
        for bending in _BENT_PRECISIONS if bent else (1.0,):
            shared = np.diag([straight] * width + [bending] * bent)
            yield block_diag(shared, *[_CONTEXT * shared] * contexts)
