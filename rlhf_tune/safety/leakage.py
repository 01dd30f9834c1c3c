"""Membership leakage: how well the loss tells training samples from others."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.evaluation import Evaluation, Outputs, check_outputs
from rlhf_tune.safety.intervals import (
    check_confidence,
    check_enough,
    proportion_interval,
)
from rlhf_tune.safety.logits import attack_loss
from rlhf_tune.safety.measurement import Constraint, Measurement, check_name, measured
from rlhf_tune.safety.samples import check_apart, check_fraction, check_samples, distinct_rows

Samples = tuple[ArrayLike, ArrayLike]

_ONE_IN = 100  # the error rate that the attacker may have, 1 %


@final
class MembershipLeakage(Constraint):
    """What a model gives away about its training set, with a ceiling.

    The attacker thresholds each sample's score, z_y - logsumexp of the other logits (Carlini et
    al. 2022, arXiv:2112.03570), in float64. The value is the tail of that attack: the share of
    holdout samples it rules out as members while missing at most 1 % of the members; .01 is
    chance. Ties are no detections. The area under the ROC curve and the share of members found
    at 1 % false alarms are among the details.

    The upper bound that decides holds at every n; see `tail_interval`.

    Args:
        members: Training samples (x [N, ...], y [N]).
        holdout: Samples (x [M, ...], y [M]) of the same kind that the model has not seen.
        at_most: The ceiling, a fraction.
        confidence: Of the one-sided bound that decides, above 0.5.
        outputs: What the model's outputs are: "logits", "probabilities", or "auto".
        name: Of its measurements.

    Raises:
        InvalidInputError: If an argument breaks its rule, or members are in the holdout.
        TooFewSamplesError: If no result on so few holdout samples could keep the ceiling.
    """

    def __init__(
        self,
        members: Samples,
        holdout: Samples,
        *,
        at_most: float,
        confidence: float = 0.95,
        outputs: Outputs = "auto",
        name: str | None = None,
    ) -> None:
        self.name = check_name(name, "membership_leakage")
        x, y = _checked("members", members)
        x_out, y_out = _checked("holdout", holdout)
        if x.shape[1:] != x_out.shape[1:]:
            raise InvalidInputError(
                f"members and holdout must have inputs of one shape, "
                f"but got {x.shape[1:]} and {x_out.shape[1:]}"
            )
        self._ceiling = check_fraction("at_most", at_most)
        self._confidence = check_confidence(confidence, above=0.5)
        self._outputs = check_outputs(outputs)
        check_apart(x, x_out)
        kept, kept_out = distinct_rows(x, y), distinct_rows(x_out, y_out)
        self._x = np.concatenate([x[kept], x_out[kept_out]])
        self._y = np.concatenate([y[kept], y_out[kept_out]])
        self._members = len(kept)
        both = (1 + self._confidence) / 2  # bounds, of the members and of the holdout
        asked = f"at_most={self._ceiling:g}"
        check_enough(self.name, len(kept_out), 1 - self._ceiling, both, asked=asked)
        twice = len(x) + len(x_out) - len(self._x)
        given = len(x) + len(x_out)
        self._notes = (
            [f"of {given} samples {twice} are equal to others and count once"] if twice else []
        )

    def __call__(self, model: Any) -> Measurement:
        """Measure `model`, leaving it as it was.

        Raises:
            InvalidInputError: If a label is not one of the model's classes.
            UnsupportedModelError: If the model cannot be measured.
        """
        with framework_of(model).classifier(model) as classifier:
            evaluation = Evaluation(classifier, self._x, self._y, outputs=self._outputs)
        scores = -attack_loss(evaluation.logits, evaluation.own, "cross_entropy", np)
        members, holdout = np.split(scores, [self._members])
        value = float(ruled_out(members, holdout))
        return measured(
            self.name,
            value,
            self._ceiling,
            tail_interval(members, holdout, self._confidence),
            len(holdout),
            kind="ceiling",
            reasons=evaluation.doubts,
            details={
                "auc": _auc(members, holdout),
                "found_at_1_percent_false_alarms": float(ruled_out(-holdout, -members)),
                "member_accuracy": float(evaluation.right[: self._members].mean()),
                "holdout_accuracy": float(evaluation.right[self._members :].mean()),
            },
            notes=self._notes,
        )


def tail_interval(
    members: NDArray[np.float64], holdout: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """One-sided bounds of the share of all such holdouts below the members' 1 % quantile.

    Two exact steps, each at half the error rate: the quantile lies below an order statistic of the
    members by the binomial distribution, and the share below that has Clopper and Pearson's bound.

    Args:
        members: Scores [N].
        holdout: Scores [M].
        confidence: Of each bound.
    """
    from scipy.stats import binom  # slow to import

    half = (1 + confidence) / 2
    n, ordered = len(members), np.sort(members)
    beyond = int(binom.ppf(half, n, 1 / _ONE_IN))  # as many members, at most, lie below it
    above = holdout < ordered[beyond] if beyond < n else np.ones(len(holdout), dtype=bool)
    fewest = int(binom.ppf(1 - half, n, 1 / _ONE_IN))
    below = holdout < ordered[fewest - 1] if fewest else np.zeros(len(holdout), dtype=bool)
    low, _ = proportion_interval(int(below.sum()), len(holdout), half)
    _, high = proportion_interval(int(above.sum()), len(holdout), half)
    return low, high


def _checked(name: str, samples: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    try:
        x, y = samples
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"`{name}` must be a pair (x, y), but got {type(samples).__name__}"
        ) from exc
    return check_samples(x, y)


def ruled_out(members: NDArray[Any], holdout: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """Share of holdout scores below a threshold that at most 1 % of the members are below.

    Args:
        members: Scores [..., N]; high means known to the model.
        holdout: Scores [..., M].
        axis: Must be the last.

    Returns:
        Shares [...].
    """
    allowed = members.shape[axis] // _ONE_IN
    threshold = np.partition(members, allowed, axis=axis)[..., allowed, None]
    return np.asarray((holdout < threshold).mean(axis=axis))


def _auc(members: NDArray[Any], holdout: NDArray[Any]) -> float:
    """Probability that a member scores above a holdout sample, a tie counting half."""
    from scipy.stats import rankdata  # slow to import

    n, m = len(members), len(holdout)
    ranks = rankdata(np.concatenate([members, holdout]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
