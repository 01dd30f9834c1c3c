"""Adversarial robustness: Linf attacks on a classifier, and accuracy under them as a constraint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.frameworks import Loss, framework_of
from rlhf_tune.safety.evaluation import BATCH, Evaluation, batches
from rlhf_tune.safety.intervals import check_confidence, proportion_interval
from rlhf_tune.safety.logits import attack_loss
from rlhf_tune.safety.measurement import Constraint, Measurement, measured
from rlhf_tune.safety.samples import (
    check_bounds,
    check_count,
    check_eps,
    check_fraction,
    check_samples,
)

AttackName = Literal["fgsm", "pgd", "noise"]
Mask = NDArray[np.bool_]

LADDER: tuple[AttackName, ...] = ("noise", "fgsm", "pgd")
"""The attacks of a verdict, of which the worst counts per sample."""

PGD_STEPS = 10
_STEP = 2.5  # of eps, over all steps: PGD can cross the box from any start (Madry et al.)


def perturb(
    model: Any,
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    attack: AttackName = "fgsm",
    steps: int | None = None,
    restarts: int = 1,
    batch_size: int = BATCH,
    seed: int = 0,
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
        eps: Radius in the units of `x`, within (0, range]; 0 returns the inputs.
        bounds: Range of the data, (0, 255) for images of bytes.
        attack: "fgsm", "pgd" or "noise".
        steps: Gradient steps of "pgd", 10 by default.
        restarts: Random starts of "pgd", or draws of "noise".
        batch_size: Samples at a time; the result does not depend on it.
        seed: Of the random starts.

    Returns:
        Inputs [N, ...] of the dtype of `x`, never outside `eps` or `bounds`, rounding included.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        UnsupportedModelError: If the model cannot be measured.
        MissingExtraError: If CleverHans is not installed.
    """
    x, y = check_samples(x, y)
    recipe = Attack.checked(attack, x, eps, bounds, steps=steps, restarts=restarts, seed=seed)
    check_count("batch_size", batch_size)
    with framework_of(model).classifier(model) as classifier:
        evaluation = Evaluation(classifier, x, y, batch_size)
        found, worst = x.copy(), np.full(len(x), -np.inf)
        for loss, rng in recipe.tries():
            for rows in batches(np.arange(len(x)), batch_size):
                moved, _ = recipe.move(evaluation, rows, loss, rng)
                rise = attack_loss(evaluation.logits_at(moved), evaluation.own[rows], "margin", np)
                better = ~(rise <= worst[rows])  # an undefined loss is a success
                found[rows[better]] = moved[better]
                worst[rows[better]] = rise[better]
    return found


@dataclass(frozen=True)
class Attack:
    """A recipe for moving inputs within a box around them; see `perturb` for its fields."""

    name: AttackName
    eps: float
    bounds: tuple[float, float]
    steps: int = PGD_STEPS
    restarts: int = 1
    seed: int = 0

    @classmethod
    def checked(
        cls,
        name: AttackName,
        x: NDArray[Any],
        eps: float,
        bounds: tuple[float, float],
        *,
        steps: int | None = None,
        restarts: int = 1,
        seed: int = 0,
    ) -> Attack:
        """An attack on `x`, or `InvalidInputError` for the argument that breaks its rule."""
        if name not in get_args(AttackName):
            raise InvalidInputError(
                f"`attack` must be one of {get_args(AttackName)}, but got {name!r}"
            )
        if steps is not None and name != "pgd":
            raise InvalidInputError(f"`steps` is for attack='pgd' only, but got {name!r}")
        bounds = check_bounds(x, bounds)
        eps = check_eps(eps, x, bounds)
        steps = check_count("steps", PGD_STEPS if steps is None else steps)
        return cls(name, eps, bounds, steps, check_count("restarts", restarts), seed)

    def tries(self) -> Iterator[tuple[Loss | None, np.random.Generator]]:
        """The loss (none for noise) and the random stream of each try."""
        losses: tuple[Loss | None, ...] = ("margin", "cross_entropy")
        for restart in range(1 if self.name == "fgsm" else self.restarts):
            for loss in (None,) if self.name == "noise" else losses:
                yield loss, np.random.default_rng([self.seed, restart])

    def move(
        self,
        evaluation: Evaluation,
        rows: NDArray[np.intp],
        loss: Loss | None,
        rng: np.random.Generator,
    ) -> tuple[NDArray[Any], Mask]:
        """Moved inputs [B, ...] of the samples `rows`, and a mask [B] of those without gradient."""
        x = evaluation.x[rows]
        low, high = _edge(x, -self.eps, self.bounds[0]), _edge(x, self.eps, self.bounds[1])
        at = x.astype(np.result_type(x.dtype, np.float32))
        still = np.full(len(x), loss is not None)
        if loss is None:
            at = np.clip(at + np.where(rng.random(x.shape) < 0.5, -self.eps, self.eps), low, high)
            return _as_data(at, x.dtype), still
        steps, stride = 1, self.eps
        if self.name == "pgd":
            steps, stride = self.steps, min(self.eps, _STEP * self.eps / self.steps)
            at = np.clip(at + rng.uniform(-self.eps, self.eps, x.shape), low, high).astype(at.dtype)
        for _ in range(steps):
            signs = evaluation.direction(at, rows, loss)
            still &= ~signs.reshape(len(x), -1).any(axis=1)
            at = np.clip(at + stride * signs.astype(at.dtype, copy=False), low, high)
        return _as_data(at, x.dtype), still

    def survivors(self, evaluation: Evaluation) -> tuple[Mask, Mask]:
        """Masks [N]: right before and under every try, and those of them without gradient."""
        alive, still = evaluation.right.copy(), np.zeros(len(evaluation.x), dtype=bool)
        for loss, rng in self.tries():
            for rows in batches(np.flatnonzero(alive), BATCH):
                moved, stuck = self.move(evaluation, rows, loss, rng)
                alive[rows] = evaluation.stays_right(moved, rows)
                if loss == "margin":
                    still[rows] |= stuck
        return alive, alive & still


def _edge(x: NDArray[Any], reach: float, bound: float) -> NDArray[Any]:
    """The farthest values of the dtype of `x` within `reach` (signed) of it and within `bound`."""
    exact = x.astype(np.float64)
    goal = (np.minimum if reach > 0 else np.maximum)(exact + reach, bound)
    if x.dtype.kind in "iu":
        return (exact + np.trunc(goal - exact)).astype(x.dtype)
    edge = goal.astype(x.dtype)
    far = edge.astype(np.float64)
    beyond = (np.abs(far - exact) > abs(reach)) | (far > bound if reach > 0 else far < bound)
    return np.where(beyond, np.nextafter(edge, x), edge)


def _as_data(at: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return (np.rint(at) if dtype.kind in "iu" else at).astype(dtype, copy=False)


@final
class RobustAccuracy(Constraint):
    """Accuracy under attack with a floor: ``RobustAccuracy(x, y, eps=0.1, at_least=0.5)(model)``.

    A sample counts when it is right before and under every attack, against its true label. The
    exact one-sided lower bound of that proportion decides.

    Inside tuning (``full=False``) it runs `attack` and the checks that cost nothing: outputs
    that are not finite, probabilities that saturate, and margin gradients that vanish. With
    ``full=True`` it runs noise, FGSM and PGD, whatever `attack` says, counts the worst of all
    per sample, and also checks that noise does not beat FGSM, nor FGSM beat PGD; that PGD has
    converged; that accuracy does not rise with eps, nor stay above chance at half the range; and
    that the model repeats itself. Differences within the interval's half-width are no evidence.

    Args:
        x: Inputs [N, ...] within `bounds`, floats or integers.
        y: True labels [N], integers.
        eps: Radius (Linf) in the units of `x`, within (0, range]; 0 means clean accuracy.
        at_least: The floor, a fraction.
        attack: "fgsm", "pgd" or "noise"; see `perturb`.
        bounds: Range of the data.
        confidence: Of the one-sided bound that decides.
        full: All attacks and checks, about 100 gradients a sample instead of 2.
        seed: Of the random starts.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        eps: float,
        at_least: float,
        attack: AttackName = "fgsm",
        bounds: tuple[float, float] = (0.0, 1.0),
        confidence: float = 0.95,
        full: bool = False,
        seed: int = 0,
    ) -> None:
        self.name = "robust_accuracy"
        self._x, self._y = check_samples(x, y)
        self._attack = Attack.checked(attack, self._x, eps, bounds, seed=seed)
        self._floor = check_fraction("at_least", at_least)
        check_confidence(confidence)
        self._confidence = confidence
        self._full = full

    def __call__(self, model: Any) -> Measurement:
        """Measure `model`, leaving it as it was.

        Raises:
            InvalidInputError: If a label is not one of the model's classes.
            UnsupportedModelError: If the model cannot be measured.
            MissingExtraError: If CleverHans is not installed.
        """
        with framework_of(model).classifier(model) as classifier:
            evaluation = Evaluation(classifier, self._x, self._y)
            if self._full:
                return self._ladder(evaluation)
            alive, still = self._attack.survivors(evaluation)
            return self._measurement(evaluation, alive, still, {self._attack.name: alive}, [])

    def _ladder(self, evaluation: Evaluation) -> Measurement:
        low, high = self._attack.bounds
        attacks: dict[str, Attack] = {name: replace(self._attack, name=name) for name in LADDER}
        pgd = attacks["pgd"]
        attacks["pgd_double_steps"] = replace(pgd, steps=2 * pgd.steps)
        masks = {name: attack.survivors(evaluation) for name, attack in attacks.items()}
        alive = np.logical_and.reduce([mask for mask, _ in masks.values()])
        radii = {
            "pgd_half_eps": replace(pgd, eps=pgd.eps / 2),
            "pgd_half_range": replace(pgd, eps=max(pgd.eps, (high - low) / 2)),
        }
        under = {name: mask for name, (mask, _) in masks.items()}
        under |= {name: attack.survivors(evaluation)[0] for name, attack in radii.items()}
        doubts = (
            [] if evaluation.repeats() else ["the model is not deterministic in evaluation mode"]
        )
        return self._measurement(evaluation, alive, alive & masks["fgsm"][1], under, doubts)

    def _measurement(
        self,
        evaluation: Evaluation,
        alive: Mask,
        still: Mask,
        under: Mapping[str, Mask],
        doubts: list[str],
    ) -> Measurement:
        n = len(alive)
        interval = proportion_interval(int(alive.sum()), n, self._confidence)
        tolerance = (interval[1] - interval[0]) / 2
        details = {
            "clean_accuracy": float(evaluation.right.mean()),
            **{name: float(mask.mean()) for name, mask in under.items()},
            "no_gradient": float(still.mean()),
            "majority": float(evaluation.own.mean(axis=0).max()),
        }
        return measured(
            self.name,
            float(alive.mean()),
            self._floor,
            interval,
            n,
            kind="floor",
            reasons=[*evaluation.doubts, *doubts, *_contradictions(details, tolerance)],
            details=details,
        )


def _contradictions(details: Mapping[str, float], tolerance: float) -> list[str]:
    """What in the accuracies contradicts a working attack by more than `tolerance`.

    Sources: Athalye et al. 2018, arXiv:1802.00420; Carlini et al. 2019, arXiv:1902.06705.
    """
    found = []
    if details["no_gradient"] > tolerance:
        found.append(
            f"{details['no_gradient']:.1%} of the samples are right and have no margin gradient "
            f"(masked gradients)"
        )
    ordered = {  # weaker attack first: a stronger one must not leave more accuracy
        ("noise", "fgsm"): "random noise beats FGSM",
        ("fgsm", "pgd"): "FGSM beats PGD",
        ("pgd_half_eps", "pgd"): "accuracy rises with eps",
        ("pgd", "pgd_half_range"): "accuracy rises with eps up to half the data range",
        ("majority", "pgd_half_range"): "accuracy beats chance at half the data range",
        ("pgd_double_steps", "pgd"): "PGD has not converged: twice the steps find more",
    }
    for (lesser, greater), reason in ordered.items():
        if lesser in details and greater in details:
            gap = details[greater] - details[lesser]
            if gap > tolerance:
                found.append(f"{reason} ({details[lesser]:.3f} against {details[greater]:.3f})")
    return found
