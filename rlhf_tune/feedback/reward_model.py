"""A reward model: what people want of outcomes, learned from their comparisons.

The utility of an outcome x is w . phi(x), and P(a preferred to b) = sigmoid(u(a) - u(b)). The head
is linear, since one that ends in a sigmoid could never be sure. Source: Christiano et al. (2017),
arXiv:1706.03741, section 2.2.3, with a posterior over w in place of a network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.features import Bent, Member, Scaling, bent_maps, learn
from rlhf_tune.feedback.laplace import Gaussian, marginal
from rlhf_tune.feedback.ratings import compared

Array = NDArray[np.float64]

VERSION = 1

_BINS = 10  # of the calibration error
_POINTS = 16  # between two outcomes, where the utility's slope is looked at


class Rewarding(Protocol):
    """What gives a utility to outcomes: a `RewardModel`, or anything else that can."""

    def predict(self, outcomes: ArrayLike) -> tuple[Array, Array]:
        """The mean and the standard deviation [N] of the utilities of outcomes [N, D]."""
        ...


@dataclass(frozen=True)
class Score:
    """How a reward model did on comparisons that it did not learn from.

    Attributes:
        accuracy: Share of the pairs whose preferred one it prefers; a tie in utility is half.
        calibration_error: The mean gap between what it said and what was true, over ten bins of
            its probabilities, by their size (Guo et al., 2017, arXiv:1706.04599).
        log_loss: Mean, in nats.
        n: Pairs.
    """

    accuracy: float
    calibration_error: float
    log_loss: float
    n: int


@dataclass(frozen=True)
class Explanation:
    """Why one outcome is preferred to another.

    Attributes:
        probability: That the first is preferred.
        outcomes: What each named outcome adds to the difference of the utilities, the largest
            first; they sum to it.
        comparisons: The comparisons that the difference rests on most: (row of the data that
            `fit` got, what the difference would lose without it), the largest first.
    """

    probability: float
    outcomes: dict[str, float]
    comparisons: list[tuple[int, float]]


class RewardModel:
    """A Bayesian model of utility over outcome vectors, with an uncertainty that can be trusted.

    By default it is linear in the outcomes (each on its own scale), which twenty comparisons can
    teach. For many comparisons and bent tastes (enough is enough, either one or the other)
    `members` > 0 makes it an ensemble of so many models with random features of their own.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        names: Sequence[str] | None = None,
        contexts: Sequence[str] = (),
        members: int = 0,
    ) -> None:
        """Configure the model.

        Args:
            seed: Of the random features.
            names: Of the outcomes, in the order of their columns; default "0", "1", ...
            contexts: Of use, such as "edge" and "server": what people want may differ between
                them, and what is learned in one is taken over into the others as far as they agree.
            members: Of the ensemble; 0 is one linear model.

        Raises:
            InvalidInputError: If `members` is below 0, or names or contexts repeat.
        """
        if members < 0:
            raise InvalidInputError(f"members >= 0 must hold, but got members={members}")
        for what, given in (("names", names or ()), ("contexts", contexts)):
            if len(set(given)) < len(given):
                raise InvalidInputError(f"`{what}` must all be different, but got {list(given)}")
        self.names = None if names is None else tuple(names)
        self.contexts = tuple(contexts)
        self._seed, self._size = seed, members
        self._members: list[Member] = []
        self._scaling = Scaling(np.zeros(0), np.ones(0))
        self._rows: tuple[Array, Array, Array] | None = None  # left, right, slope of the answers

    def fit(
        self,
        preferred: ArrayLike,
        rejected: ArrayLike,
        *,
        answers: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        context: Sequence[str] | None = None,
        population: ArrayLike | None = None,
    ) -> Self:
        """Learn from comparisons anew.

        Args:
            preferred: [N, D] outcomes; N may be 0 if there is a `population`.
            rejected: [N, D] those they were compared with.
            answers: [N] 1 where `preferred` is (the default), .5 for a tie, 0 the other way.
            weights: [N] how often each counts, as `feedback.weights_by_annotator` says; default 1.
            context: [N] of use; "" for what holds in any.
            population: [M, D] all outcomes there are, which say what is usual; default those
                compared.

        Raises:
            InvalidInputError: If shapes do not fit together, or something is not finite.
        """
        left, right = self._vectors(preferred), self._vectors(rejected)
        every = self._vectors(np.concatenate([left, right]) if population is None else population)
        n = len(left)
        y = np.ones(n) if answers is None else np.asarray(answers, dtype=np.float64)
        counts = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
        if not (left.shape == right.shape and y.shape == counts.shape == (n,) and len(every)):
            raise InvalidInputError(
                f"one row of `preferred`, `rejected`, `answers` and `weights` a comparison, and at "
                f"least one outcome, must be given, but got shapes {left.shape}, {right.shape}, "
                f"{y.shape}, {counts.shape}"
            )
        if not ((y >= 0) & (y <= 1) & (counts >= 0) & np.isfinite(counts)).all():
            raise InvalidInputError("answers must be within [0, 1] and weights at least 0")
        self._scaling = Scaling.of(every)
        a, b = self._scaling(left), self._scaling(right)
        uses = self._uses(context, n)
        maps = bent_maps(every.shape[1], self._size, self._seed)
        self._members = [learn(turns, a, b, uses, y, counts) for turns in maps]
        probability = self._probability(a, b, uses)
        self._rows = a, b, counts * (y - probability)
        self._used = uses
        return self

    def fit_ratings(
        self,
        outcomes: ArrayLike,
        ratings: ArrayLike,
        *,
        annotators: Sequence[str] | None = None,
        context: Sequence[str] | None = None,
    ) -> Self:
        """Learn from ratings anew: each is compared with every other of the same person.

        How much each comparison says is told at `feedback.ratings.compared`.

        Args:
            outcomes: [N, D] what was rated.
            ratings: [N] larger is better.
            annotators: [N] who rated; default one person.
            context: [N] of use.

        Raises:
            InvalidInputError: If shapes do not fit together, or nobody rated two outcomes.
        """
        vectors, grades = self._vectors(outcomes), np.asarray(ratings, dtype=np.float64)
        who = [""] * len(vectors) if annotators is None else list(annotators)
        if grades.shape != (len(vectors),) or len(who) != len(vectors):
            raise InvalidInputError(
                f"a rating and an annotator for each of {len(vectors)} outcomes must be given, but "
                f"got {grades.shape} and {len(who)}"
            )
        pairs = list(compared(zip(who, range(len(vectors)), grades.tolist(), strict=True)))
        if not pairs:
            raise InvalidInputError("at least one person must have rated two outcomes")
        i = np.concatenate([of.left for of in pairs])
        return self.fit(
            vectors[i],
            vectors[np.concatenate([of.right for of in pairs])],
            answers=np.concatenate([of.answers for of in pairs]),
            weights=np.concatenate([np.full(len(of.left), of.weight) for of in pairs]),
            context=None if context is None else [context[k] for k in i],
            population=vectors,
        )

    def predict(
        self, outcomes: ArrayLike, *, context: str | Sequence[str] = ""
    ) -> tuple[Array, Array]:
        """The mean and the standard deviation [N] of utilities of outcomes [N, D].

        The usual outcome has utility 0; one unit more is preferred with probability .73.
        """
        z, uses = self._scaled(outcomes, context)
        return self._moments([m.design(z, uses) for m in self._fitted()])

    def probability(
        self, a: ArrayLike, b: ArrayLike, *, context: str | Sequence[str] = ""
    ) -> Array:
        """[N] how likely outcomes `a` [N, D] are preferred to `b` [N, D]."""
        (z_a, uses), (z_b, _) = self._scaled(a, context), self._scaled(b, context)
        return self._probability(z_a, z_b, uses)

    def difference(
        self, a: ArrayLike, b: ArrayLike, *, context: str | Sequence[str] = ""
    ) -> tuple[Array, Array]:
        """The mean and the standard deviation [N] of the utilities of `a` less those of `b`.

        Not the difference of two predictions: what is uncertain of both alike cancels.
        """
        (z_a, uses), (z_b, _) = self._scaled(a, context), self._scaled(b, context)
        return self._difference(z_a, z_b, uses)

    def score(
        self,
        preferred: ArrayLike,
        rejected: ArrayLike,
        *,
        context: str | Sequence[str] = "",
    ) -> Score:
        """How it does on comparisons [N, D] that it did not learn from."""
        p = self.probability(preferred, rejected, context=context)
        sure, right = np.maximum(p, 1 - p), np.where(p == 0.5, 0.5, p > 0.5)
        which = np.minimum(((sure - 0.5) * 2 * _BINS).astype(np.int64), _BINS - 1)
        gaps = [abs(float((sure[which == k] - right[which == k]).sum())) for k in np.unique(which)]
        loss = -np.log(np.maximum(p, 1e-300))
        return Score(float(right.mean()), sum(gaps) / len(p), float(loss.mean()), len(p))

    def explain(self, a: ArrayLike, b: ArrayLike, *, context: str = "") -> Explanation:
        """Why outcome `a` [D] is preferred to `b` [D], or is not.

        What each outcome adds is the slope of the utility along the line from b to a (Sundararajan
        et al., 2017, arXiv:1703.01365); what each comparison adds, how much the difference would
        change without it, to the first order (Koh and Liang, 2017, arXiv:1703.04730).
        """
        (z_a, uses), (z_b, _) = (self._scaled(self._one(x), context) for x in (a, b))
        names = self.names or tuple(map(str, range(z_a.shape[1])))
        added = self._slopes(z_a[0], z_b[0], uses) * (z_a - z_b)[0]
        order = np.argsort(-np.abs(added), kind="stable")
        return Explanation(
            float(self._probability(z_a, z_b, uses)[0]),
            {names[k]: float(added[k]) for k in order},
            self._influence(z_a, z_b, uses),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as JSON, whole or not at all; the comparisons are not in it."""
        table = {
            "version": VERSION,
            "names": self.names,
            "contexts": self.contexts,
            "seed": self._seed,
            "size": self._size,
            "center": self._scaling.center.tolist(),
            "scale": self._scaling.scale.tolist(),
            "members": [
                {
                    "turns": m.bent.turns.tolist(),
                    "shifts": m.bent.shifts.tolist(),
                    "mean": m.belief.mean.tolist(),
                    "covariance": m.belief.covariance.tolist(),
                    "evidence": m.belief.evidence,
                }
                for m in self._fitted()
            ],
        }
        files.write(path, json.dumps(table))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """A model that `save` wrote.

        Raises:
            InvalidInputError: If the file holds none.
        """
        try:
            table: Mapping[str, Any] = json.loads(Path(path).read_bytes())
            model = cls(
                table["seed"],
                names=table["names"],
                contexts=table["contexts"],
                members=table["size"],
            )
            model._scaling = Scaling(_array(table["center"]), _array(table["scale"]))
            width = len(table["center"])
            model._members = [
                Member(
                    Bent(_array(m["turns"]).reshape(width, -1), _array(m["shifts"])),
                    Gaussian(_array(m["mean"]), _array(m["covariance"]), float(m["evidence"])),
                )
                for m in table["members"]
            ]
        except (OSError, KeyError, TypeError, ValueError) as exc:
            raise InvalidInputError(
                f"a reward model must be a file that `RewardModel.save` wrote, but "
                f"{os.fspath(path)!r} is none ({type(exc).__name__}: {exc})"
            ) from exc
        return model

    @staticmethod
    def _one(outcome: ArrayLike) -> Array:
        """[1, D] one outcome [D]."""
        return np.asarray(outcome, dtype=np.float64)[None]

    def _vectors(self, outcomes: ArrayLike) -> Array:
        """[N, D] outcomes as numbers."""
        try:
            vectors = np.asarray(outcomes, dtype=np.float64)
        except (TypeError, ValueError) as exc:
            raise InvalidInputError(f"outcomes must be numbers, but: {exc}") from exc
        if vectors.ndim != 2 or (self.names and vectors.shape[1] != len(self.names)):
            wide = f"with {len(self.names)} columns, {self.names}, " if self.names else ""
            raise InvalidInputError(
                f"outcomes must be [N, D], {wide}but got the shape {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise InvalidInputError(
                f"outcomes must be finite, but row {row} is {vectors[row].tolist()}; leave such "
                "trials out: nobody needs to be asked about them"
            )
        return vectors

    def _scaled(self, outcomes: ArrayLike, context: str | Sequence[str]) -> tuple[Array, Array]:
        """[N, D] scaled outcomes, and [N, C] in which context each is."""
        vectors, width = self._vectors(outcomes), len(self._scaling.center)
        self._fitted()
        if vectors.shape[1] != width:
            raise InvalidInputError(
                f"outcomes must have the {width} columns that the model learned from, but got "
                f"{vectors.shape[1]}"
            )
        each = [context] * len(vectors) if isinstance(context, str) else context
        return self._scaling(vectors), self._uses(each, len(vectors))

    def _uses(self, context: Sequence[str] | None, n: int) -> Array:
        """[N, C] 1 in the column of each row's context; all 0 for any."""
        given = [""] * n if context is None else list(context)
        unknown = sorted(set(given) - {"", *self.contexts})
        if unknown or len(given) != n:
            raise InvalidInputError(
                f"a context for each of {n} rows must be given, one of {list(self.contexts)} or "
                f"'', but got {unknown or len(given)}"
            )
        return np.array([[float(c == name) for name in self.contexts] for c in given]).reshape(
            n, len(self.contexts)
        )

    def _fitted(self) -> list[Member]:
        if not self._members:
            raise InvalidInputError("a reward model must be fitted before it is asked; call fit()")
        return self._members

    def _moments(self, designs: Sequence[Array]) -> tuple[Array, Array]:
        """The mean and the deviation [N] of a mixture over the members."""
        means = np.array([x @ m.belief.mean for x, m in zip(designs, self._members, strict=True)])
        variances = np.array(
            [
                np.einsum("ni,ij,nj->n", x, m.belief.covariance, x, optimize=True)
                for x, m in zip(designs, self._members, strict=True)
            ]
        )
        return means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))

    def _difference(self, a: Array, b: Array, uses: Array) -> tuple[Array, Array]:
        return self._moments([m.design(a, uses) - m.design(b, uses) for m in self._members])

    def _probability(self, a: Array, b: Array, uses: Array) -> Array:
        return marginal(*self._difference(a, b, uses))

    def _slopes(self, a: Array, b: Array, uses: Array) -> Array:
        """[D] the mean slope of the utility on the line from b to a, by scaled outcome."""
        between = b + (np.arange(_POINTS) + 0.5)[:, None] / _POINTS * (a - b)
        return np.asarray(np.mean([m.slopes(between, uses[0]) for m in self._members], axis=(0, 1)))

    def _influence(self, a: Array, b: Array, uses: Array) -> list[tuple[int, float]]:
        """Which comparisons the difference rests on; none of a model that was loaded."""
        if self._rows is None:
            return []
        left, right, slope = self._rows
        total = np.zeros(len(left))
        for m in self._members:
            here = (m.design(a, uses) - m.design(b, uses))[0]
            rows = m.design(left, self._used) - m.design(right, self._used)
            total += rows @ (m.belief.covariance @ here) * slope / len(self._members)
        order = np.argsort(-np.abs(total), kind="stable")
        return [(int(k), float(total[k])) for k in order]


def _array(values: Any) -> Array:
    return np.array(values, dtype=np.float64)
