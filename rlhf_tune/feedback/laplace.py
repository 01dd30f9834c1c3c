"""Bayesian logistic regression on differences: what every model of comparisons is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, log_expit

Array = NDArray[np.float64]

_ROUNDS = 100
_ENOUGH = 1e-9  # of a step's largest entry


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A posterior of D weights, by Laplace's approximation.

    Attributes:
        mean: [D] the most probable weights.
        covariance: [D, D] the inverse curvature there.
        evidence: The logarithm of how likely the answers are under the prior.
    """

    mean: Array
    covariance: Array
    evidence: float


def posterior(
    differences: Array,
    answers: Array,
    precision: Array,
    weights: Array,
    center: Array | float = 0.0,
) -> Gaussian:
    """The weights w of P(first preferred) = sigmoid(difference . w), given answers.

    The loss is convex, so Newton's steps, halved where they lead up, find its only minimum. Source:
    MacKay (1992), "The evidence framework applied to classification networks".

    Args:
        differences: [N, D] features of the first less those of the second; N may be 0.
        answers: [N] 1 where the first is preferred, 0 where the second is, .5 for a tie.
        precision: [D, D] of the Gaussian prior; positive definite.
        weights: [N] how often each answer counts.
        center: [D] the prior's mean.
    """
    start = np.zeros(differences.shape[1]) + center
    w = start

    def loss_at(w: Array) -> float:
        """Minus the logarithm of likelihood and prior, but for the prior's constant."""
        margin, away = differences @ w, w - start
        likely = answers * log_expit(margin) + (1 - answers) * log_expit(-margin)
        return float(away @ precision @ away / 2 - weights @ likely)

    loss = loss_at(w)
    for _ in range(_ROUNDS):
        p = expit(differences @ w)
        slope = precision @ (w - start) - differences.T @ (weights * (answers - p))
        step = cho_solve(cho_factor(_curvature(differences, p, precision, weights)), slope)
        size = 1.0
        while (lower := loss_at(w - size * step)) > loss and size >= _ENOUGH:
            size /= 2
        if lower > loss:  # rounding is all that is left
            break
        w, loss = w - size * step, lower
        if np.abs(step).max(initial=0.0) < _ENOUGH:
            break
    factor = cho_factor(_curvature(differences, expit(differences @ w), precision, weights))
    covariance = np.asarray(cho_solve(factor, np.eye(len(w))))
    halves = np.linalg.slogdet(precision)[1] / 2 - np.log(np.diag(factor[0])).sum()
    return Gaussian(w, covariance, float(halves - loss))


def _curvature(differences: Array, p: Array, precision: Array, weights: Array) -> Array:
    return np.asarray(precision + (differences.T * (weights * p * (1 - p))) @ differences)


def marginal(mean: Array, deviation: Array) -> Array:
    """[N] E[sigmoid(f)] for Gaussian margins f of `mean` [N] and `deviation` [N].

    Source: MacKay (1992), the probit approximation.
    """
    return np.asarray(expit(mean / np.sqrt(1 + np.pi * deviation**2 / 8)))
