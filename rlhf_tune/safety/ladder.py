"""All attacks of a verdict, weakest first, and what in their results contradicts a working one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rlhf_tune.errors import NoGradientError
from rlhf_tune.safety.attacks import Attack, AttackName, Box, Mask
from rlhf_tune.safety.evaluation import Evaluation
from rlhf_tune.safety.smoothed import smoothed_survivors
from rlhf_tune.safety.square import QUERIES, square_survivors
from rlhf_tune.safety.targeted import targeted_survivors

LADDER: tuple[AttackName, ...] = ("noise", "fgsm", "pgd")
"""The attacks that a sweep can draw curves of."""


@dataclass(frozen=True, eq=False)
class Climb:
    """What the attacks left.

    Attributes:
        alive: Mask [N] of the samples that are right before and under every attack.
        still: Mask [N] of those whose margin has no gradient.
        under: Mask [N] of what is right under each attack; under "targeted", "smoothed" and
            "square", which attack survivors only, under all before them too.
        doubts: Why attacks may have missed something, one sentence each.
    """

    alive: Mask
    still: Mask
    under: Mapping[str, Mask]
    doubts: tuple[str, ...] = ()


def climb(evaluation: Evaluation, box: Box, *, seed: int = 0) -> Climb:
    """Attack by noise, FGSM, PGD, towards each other class, smoothed, and by Square.

    The worst of all counts. A model without gradients is attacked by noise and Square alone, and
    doubted.
    """
    noise = Attack("noise", box, seed=seed)
    under = {"noise": noise.survivors(evaluation)[0]}
    try:
        still, by_gradient = _by_gradient(evaluation, box, seed)
        under |= by_gradient
    except NoGradientError as exc:
        alive = square_survivors(evaluation, box, under["noise"], queries=4 * QUERIES, seed=seed)
        doubt = f"no gradient leads to the inputs, so only search was tried: {exc}"
        return Climb(alive, np.zeros_like(alive), {**under, "square": alive}, (doubt,))
    alive = np.logical_and.reduce([under[name] for name in (*LADDER, "pgd_double_steps")])
    alive = under["targeted"] = targeted_survivors(evaluation, box, alive, seed=seed)
    alive = under["smoothed"] = smoothed_survivors(evaluation, box, alive, seed=seed)
    under["square"] = square_survivors(evaluation, box, alive, seed=seed)
    return Climb(under["square"], under["square"] & still, under)


def _by_gradient(evaluation: Evaluation, box: Box, seed: int) -> tuple[Mask, dict[str, Mask]]:
    """Samples without gradient, and what is right under each attack on all samples."""
    fgsm, still = Attack("fgsm", box, seed=seed).survivors(evaluation)
    pgd = Attack("pgd", box, seed=seed)
    attacks = {
        "pgd": pgd,
        "pgd_double_steps": replace(pgd, steps=2 * pgd.steps),
        "pgd_half_eps": replace(pgd, box=replace(box, eps=box.eps / 2)),
    }
    if np.all(np.asarray(box.eps) > 0):  # features that never move may tell the classes apart
        wide = np.maximum(box.eps, np.asarray(box.reach) / 2)[()]
        attacks["pgd_half_range"] = replace(pgd, box=replace(box, eps=wide))
    under = {name: attack.survivors(evaluation)[0] for name, attack in attacks.items()}
    return still, {"fgsm": fgsm, **under}


def details_of(evaluation: Evaluation, still: Mask, under: Mapping[str, Mask]) -> dict[str, float]:
    """The shares of samples that `contradictions` compares, for a report."""
    return {
        "clean_accuracy": float(evaluation.right.mean()),
        **{name: float(mask.mean()) for name, mask in under.items()},
        "no_gradient": float(still.mean()),
        "majority": float(evaluation.own.mean(axis=0).max()),
    }


def contradictions(details: Mapping[str, float], tolerance: float) -> list[str]:
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
        ("pgd", "pgd_double_steps"): "PGD loses its way: twice the steps find less",
        ("smoothed", "targeted"): "gradients around a sample find more than those at it",
        ("square", "smoothed"): "black-box search beats every gradient",
    }
    for (lesser, greater), reason in ordered.items():
        if lesser in details and greater in details:
            gap = details[greater] - details[lesser]
            if gap > tolerance:
                found.append(f"{reason} ({details[lesser]:.3f} against {details[greater]:.3f})")
    return found
