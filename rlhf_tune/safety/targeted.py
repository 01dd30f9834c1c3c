"""A gradient attack towards each other class, whose steps adapt to what they achieve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.safety.attacks import Box, Mask, as_data
from rlhf_tune.safety.evaluation import BATCH, Evaluation, batches
from rlhf_tune.safety.logits import attack_loss

CLASSES = 9
STEPS = 20
ROUNDS = 3  # at most, each of twice the steps of the one before
_WORTH_MORE = 0.005  # of all samples: what a round must find for another one

_MOMENTUM = 0.75
_RISING = 0.75  # of the steps between two checkpoints: fewer that rise halve the step
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06  # of all steps: the intervals between checkpoints


def targeted_survivors(evaluation: Evaluation, box: Box, alive: Mask, *, seed: int = 0) -> Mask:
    """Mask [N]: of the samples `alive`, those that no attack towards another class turns.

    The loss is the margin z_j - z_y of one other class j at a time, up to nine of them, the
    likeliest first; the steps are those of APGD (Croce and Hein 2020, arXiv:2003.01690). Rounds
    of twice the steps, from other starts, follow as long as they find more.
    """
    alive = alive.copy()
    for number in range(ROUNDS):
        before = alive.sum()
        rng = np.random.default_rng([seed, number])
        for place in range(min(CLASSES, evaluation.logits.shape[1] - 1)):
            for rows in batches(np.flatnonzero(alive), BATCH):
                attempt = _Attempt(evaluation, box, rows, _rival(evaluation, rows, place))
                alive[rows] = attempt.run(STEPS * 2**number, rng, jump=number > 0)
        if before - alive.sum() < _WORTH_MORE * len(alive):
            break
    return alive


def _rival(evaluation: Evaluation, rows: NDArray[np.intp], place: int) -> Mask:
    """Mask [B, C] of the other class that is likeliest but for `place` others."""
    others = np.where(evaluation.own[rows], -np.inf, evaluation.logits[rows])
    chosen = np.argsort(-others, axis=1, kind="stable")[:, place]
    return np.asarray(chosen[:, None] == np.arange(others.shape[1]))


@dataclass(eq=False)
class _Attempt:
    """One attack on a batch of samples towards one class each."""

    evaluation: Evaluation
    box: Box
    rows: NDArray[np.intp]
    rival: Mask

    def run(self, steps: int, rng: np.random.Generator, *, jump: bool) -> Mask:
        """Mask [B] of the samples that stay right after APGD's steps."""
        x = self.evaluation.x[self.rows]
        low, high = self.box.around(x)
        at = x.astype(np.result_type(x.dtype, np.float32))
        if jump:
            start = at + np.asarray(self.box.eps) * rng.uniform(-1, 1, x.shape)
            at = np.clip(start, low, high).astype(at.dtype)
        shape = (len(x), *[1] * (x.ndim - 1))
        stride = np.broadcast_to(2.0 * np.asarray(self.box.eps), x.shape[1:]) * np.ones(shape)
        before, best, best_rise = at, at, self._rise(at)
        rise, risen, halved = best_rise.copy(), np.zeros(len(x)), np.zeros(len(x), dtype=bool)
        best_then, checks = best_rise.copy(), _checkpoints(steps)
        for step in range(steps):
            signs = self.evaluation.direction(at, self.rows, "margin", self.rival)
            ahead = np.clip(at + stride * signs, low, high)
            share = _MOMENTUM if step else 1.0
            moved = at + share * (ahead - at) + (1 - share) * (at - before)
            before, at = at, np.clip(moved, low, high).astype(at.dtype, copy=False)
            now = self._rise(at)
            risen += now > rise
            rise, better = now, now > best_rise
            best = np.where(better.reshape(shape), at, best)
            best_rise = np.where(better, now, best_rise)
            if step + 1 in checks:
                slow = risen < _RISING * checks[step + 1]
                stuck = ~halved & (best_rise <= best_then)
                halved = slow | stuck
                stride = np.where(halved.reshape(shape), stride / 2, stride)
                at = np.where(halved.reshape(shape), best, at)
                risen, best_then = np.zeros(len(x)), best_rise.copy()
        return self.evaluation.stays_right(as_data(best, x.dtype), self.rows)

    def _rise(self, at: NDArray[Any]) -> NDArray[np.float64]:
        """The loss [B]; what is not defined counts as a success."""
        logits = self.evaluation.logits_at(at)
        with np.errstate(invalid="ignore"):
            loss = attack_loss(logits, self.evaluation.own[self.rows], "margin", np, self.rival)
        return np.nan_to_num(np.asarray(loss, dtype=np.float64), nan=np.inf)


def _checkpoints(steps: int) -> dict[int, int]:
    """The steps after which a stride may halve, and how many were taken since the last."""
    share, length, found = 0.0, _FIRST, {}
    last = 0
    while (at := int(np.ceil(share + length * steps))) <= steps and length > 0:
        found[at], last, share = at - last, at, at
        length = max(length - _SHRINK, _LEAST)
    return found
