"""The logits of outputs, and the losses of attacks on them, in any array library.

Each function takes the array module `xp` (`numpy`, `torch` or `keras.ops`) that its arrays belong
to, so that one definition serves the measurements and the gradients of every framework.
"""

from __future__ import annotations

import math
from typing import Any

from rlhf_tune.frameworks import Link, Loss


def as_logits(outputs: Any, link: Link, xp: Any) -> Any:
    """Logits [B, max(C, 2)] of outputs [B, C]; a single output speaks for class 1."""
    single = outputs.shape[1] == 1
    if link == "probability":
        return xp.log(xp.concatenate([1 - outputs, outputs], 1) if single else outputs)
    return xp.concatenate([xp.zeros_like(outputs), outputs], 1) if single else outputs


def attack_loss(logits: Any, own: Any, loss: Loss, xp: Any, rival: Any = None) -> Any:
    """How far each sample is from being right [B]; above zero, the margin means it is wrong.

    The margin is the largest other logit minus the true class's, z_j - z_y (Carlini and Wagner
    2017, arXiv:1608.04644). The cross-entropy is log(1 + exp(s)) of s = logsumexp of the other
    logits minus z_y; s is returned in its place, since it rises exactly where the cross-entropy
    does and its gradient does not vanish when the softmax saturates.

    Args:
        logits: [B, C], C >= 2.
        own: Mask [B, C] of each sample's true class.
        loss: "margin" or "cross_entropy".
        xp: The array module.
        rival: Mask [B, C] of the one class whose logit counts; None for all others.
    """
    others = xp.where(own if rival is None else ~rival, -math.inf, logits)
    top = xp.amax(others, 1)
    if loss == "cross_entropy":
        top = top + xp.log(xp.sum(xp.exp(others - top[:, None]), 1))
    return top - xp.sum(xp.where(own, logits, 0.0), 1)
