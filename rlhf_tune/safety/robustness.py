"""Adversarial robustness: Linf attacks on a classifier, and accuracy under them as a constraint."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import NoGradientError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.attacks import Attack, AttackName, Mask
from rlhf_tune.safety.evaluation import BATCH, Evaluation, Outputs, batches, check_outputs
from rlhf_tune.safety.intervals import (
    check_confidence,
    check_enough,
    check_halves,
    proportion_interval,
)
from rlhf_tune.safety.ladder import climb, contradictions, details_of
from rlhf_tune.safety.logits import attack_loss
from rlhf_tune.safety.measurement import Constraint, Measurement, check_name, measured
from rlhf_tune.safety.samples import (
    check_count,
    check_fraction,
    check_samples,
    distinct_rows,
    doubt_of_units,
    shown,
)

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy

_STEERING_STEPS = 5  # of PGD: what two steps of training cannot fool


def perturb(
    model: Any,
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: ArrayLike,
    bounds: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
    attack: AttackName = "fgsm",
    steps: int | None = None,
    restarts: int = 1,
    batch_size: int = BATCH,
    seed: int = 0,
    outputs: Outputs = "auto",
) -> NDArray[Any]:
    """Move each input by at most `eps` per element (Linf) to make the model miss its label.

    "fgsm" is one signed-gradient step (Goodfellow et al. 2015, arXiv:1412.6572), "pgd" several
    from a random start (Madry et al. 2018, arXiv:1706.06083), each for the margin and for the
    cross-entropy loss; "noise" is a random corner of the box. Of all tries (losses, restarts),
    the one with the largest margin loss is returned, per sample.

    Args:
        model: A classifier of a known framework; left as it was.
        x: Inputs [N, ...] within `bounds`, floats or integers.
        y: True labels [N], integers.
        eps: Radius in the units of `x`, within (0, range], a number or one for each feature: an
            array that broadcasts to a sample's shape; 0 does not move it.
        bounds: Range of the data, (0, 255) for images of bytes; each a number or one for each
            feature.
        attack: "fgsm", "pgd" or "noise".
        steps: Gradient steps of "pgd", 10 by default.
        restarts: Random starts of "pgd", or draws of "noise".
        batch_size: Samples at a time; the result does not depend on it.
        seed: Of the random starts.
        outputs: What the model's outputs are: "logits", "probabilities", or "auto".

    Returns:
        Inputs [N, ...] of the dtype of `x`, never outside `eps` or `bounds`, rounding included.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        UnsupportedModelError: If the model cannot be measured.
    """
    x, y = check_samples(x, y)
    recipe = Attack.checked(attack, x, eps, bounds, steps=steps, restarts=restarts, seed=seed)
    check_count("batch_size", batch_size)
    with framework_of(model).classifier(model) as classifier:
        evaluation = Evaluation(classifier, x, y, batch_size, outputs=outputs)
        found, worst = x.copy(), np.full(len(x), -np.inf)
        for loss, rng in recipe.tries():
            for rows in batches(np.arange(len(x)), batch_size):
                moved, _ = recipe.move(evaluation, rows, loss, rng)
                rise = attack_loss(evaluation.logits_at(moved), evaluation.own[rows], "margin", np)
                better = ~(rise <= worst[rows])  # an undefined loss is a success
                found[rows[better]] = moved[better]
                worst[rows[better]] = rise[better]
    return found


@final
class RobustAccuracy(Constraint):
    """Accuracy under attack with a floor: ``RobustAccuracy(x, y, eps=0.1, at_least=0.5)(model)``.

    A sample counts when the model as it is served is right before and under every attack, against
    its true label. The exact one-sided lower bound of that proportion decides. Equal samples are
    one sample.

    Inside tuning (``full=False``) it runs `attack` and the checks that cost little: outputs that
    are not finite, or change with order and batch size; probabilities that saturate; margin
    gradients that vanish. With ``full=True`` it runs noise, FGSM, PGD, PGD towards each other class
    and a black-box search (Square), whatever `attack` says, counts the worst of all per sample, and
    also checks that noise does not beat FGSM, FGSM not PGD, search not every gradient; that PGD has
    converged; and that accuracy does not rise with eps, nor stay above chance at half the range.
    Differences within the interval's half-width are no evidence.

    Args:
        x: Inputs [N, ...] within `bounds`, floats or integers.
        y: True labels [N], integers.
        eps: Radius (Linf) in the units of `x`, within (0, range], a number or one for each feature:
            an array that broadcasts to a sample's shape. 0 does not move it; 0 everywhere means
            clean accuracy.
        at_least: The floor, a fraction.
        attack: "fgsm", "pgd" or "noise"; see `perturb`.
        bounds: Range of the data, each end a number or one for each feature.
        confidence: Of the one-sided bound that decides.
        full: All attacks and checks, some hundreds of gradients a sample instead of 2.
        seed: Of the random starts.
        outputs: What the model's outputs are: "logits", "probabilities", or "auto", which goes by
            its last layer and doubts what only values could tell.
        draws: For a model that is random on purpose: gradients are means over so many passes
            (Athalye et al. 2018, arXiv:1802.00420), and randomness is no doubt. Each look at a
            sample is a draw of its own, and it must be right in all, which is on the safe side.
        name: Of its measurements; by default it tells eps, attack and `full`.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        TooFewSamplesError: If no result on so few samples could keep the floor.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        eps: ArrayLike,
        at_least: float,
        attack: AttackName = "fgsm",
        bounds: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
        confidence: float = 0.95,
        full: bool = False,
        seed: int = 0,
        outputs: Outputs = "auto",
        draws: int = 1,
        name: str | None = None,
    ) -> None:
        samples, labels = check_samples(x, y)
        self._attack = Attack.checked(attack, samples, eps, bounds, seed=seed)
        self._floor = check_fraction("at_least", at_least)
        check_confidence(confidence)
        self._confidence, self._full = confidence, full
        self._outputs, self._draws = check_outputs(outputs), check_count("draws", draws)
        kept = distinct_rows(samples, labels)
        self._x, self._y = samples[kept], labels[kept]
        self.name = check_name(name, self._usual_name())
        check_enough(self.name, len(kept), self._floor, confidence)
        self._doubts = doubt_of_units(self._attack.box.eps, self._x, self._attack.box.bounds)
        self._notes = _notes(self._attack.box.eps, len(samples), len(kept))

    def __call__(self, model: Any) -> Measurement:
        """Measure `model`, leaving it as it was.

        Raises:
            InvalidInputError: If a label is not one of the model's classes.
            UnsupportedModelError: If the model cannot be measured.
        """
        with framework_of(model).classifier(model) as classifier:
            evaluation = Evaluation(
                classifier, self._x, self._y, outputs=self._outputs, draws=self._draws
            )
            if self._full:
                seen = climb(evaluation, self._attack.box, seed=self._attack.seed)
                return self._measurement(
                    evaluation, seen.alive, seen.still, seen.under, seen.doubts
                )
            try:
                alive, still = self._attack.survivors(evaluation)
            except NoGradientError as exc:
                raise NoGradientError(f"{exc}; full=True measures it by search") from exc
            return self._measurement(evaluation, alive, still, {self._attack.name: alive})

    def remedy(self) -> Remedy | None:
        """Adversarial training within the same box; None where that is empty, or attacked by noise.

        See `rlhf_tune.safety.remedy.adversarial_training`.
        """
        if not self._against:
            return None
        from rlhf_tune.safety.remedy import adversarial_training  # asked for by few runs

        return adversarial_training(self._attack.box.eps, self._attack.box.bounds)

    def halves(self, candidates: int) -> tuple[Constraint, Constraint]:
        """One half of the samples under PGD of five steps, and one under the full ladder.

        Attacked by noise, or within an empty box, both are measured as asked for.

        Raises:
            TooFewSamplesError: If a half is too small to certify the floor at the confidence that
                is left to each candidate.
        """
        confidence = 1 - (1 - self._confidence) / candidates
        steering, certifying = self._part(0, confidence), self._part(1, confidence)
        if self._against:
            steering._attack = replace(self._attack, name="pgd", steps=_STEERING_STEPS)
            steering._full, certifying._full = False, True
        return steering, certifying

    @property
    def _against(self) -> bool:
        """Whether there is somebody to defend against, who would take the strongest attack."""
        return self._attack.name != "noise" and bool(np.any(np.asarray(self._attack.box.eps) > 0))

    def _part(self, first: int, confidence: float) -> RobustAccuracy:
        """Every second sample; their order, by hash, tells nothing of them."""
        part = copy.copy(self)
        part._x, part._y, part._confidence = self._x[first::2], self._y[first::2], confidence
        check_halves(self.name, len(part._x), self._floor, confidence)
        return part

    def _usual_name(self) -> str:
        marks = ["full"] if self._full else []
        marks += [self._attack.name] if self._attack.name != "fgsm" and not self._full else []
        return f"robust_accuracy[{', '.join([*marks, f'eps={shown(self._attack.box.eps)}'])}]"

    def _measurement(
        self,
        evaluation: Evaluation,
        alive: Mask,
        still: Mask,
        under: Mapping[str, Mask],
        doubts: Sequence[str] = (),
    ) -> Measurement:
        n = len(alive)
        interval = proportion_interval(int(alive.sum()), n, self._confidence)
        tolerance = (interval[1] - interval[0]) / 2
        details = details_of(evaluation, still, under)
        seen = [*evaluation.doubts, *doubts, *contradictions(details, tolerance)]
        return measured(
            self.name,
            float(alive.mean()),
            self._floor,
            interval,
            n,
            kind="floor",
            reasons=[*self._doubts, *seen],
            details=details,
            notes=[*self._notes, *_note_of_chance(details)],
            engine=evaluation.engine,
        )


def _notes(eps: Any, given: int, kept: int) -> list[str]:
    notes = []
    if kept < given:
        notes.append(f"of {given} samples {given - kept} are equal to others and count once")
    if not np.any(np.asarray(eps) > 0):
        notes.append("eps is 0: this is clean accuracy")
    return notes


def _note_of_chance(details: Mapping[str, float]) -> list[str]:
    clean, majority = details["clean_accuracy"], details["majority"]
    if clean > majority:
        return []
    return [
        f"clean accuracy {clean:.3f} is no better than always naming the most frequent class "
        f"({majority:.3f})"
    ]
