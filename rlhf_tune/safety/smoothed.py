"""A gradient attack on the model as it is around a point, where gradients at points mislead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.safety.attacks import Box, Mask, as_data
from rlhf_tune.safety.evaluation import BATCH, Evaluation, batches

STEPS = 20
DRAWS = 8


def smoothed_survivors(evaluation: Evaluation, box: Box, alive: Mask, *, seed: int = 0) -> Mask:
    """Mask [N]: of the samples `alive`, those that stay right under PGD with smoothed gradients.

    Each step follows the mean of the directions at points drawn uniformly from `eps` around the
    sample, since a model that rounds its inputs, or ripples, says at no single point where it
    leads to (Wu et al. 2018, arXiv:1802.09707; Athalye et al. 2018, arXiv:1802.00420). The points
    may lie outside the box, the attacked samples may not. A sample is missed once a step turns it.
    """
    alive = alive.copy()
    rng = np.random.default_rng(seed)
    for rows in batches(np.flatnonzero(alive), BATCH):
        alive[rows] = _survive(evaluation, box, rows, rng)
    return alive


def _survive(
    evaluation: Evaluation, box: Box, rows: NDArray[np.intp], rng: np.random.Generator
) -> Mask:
    x = evaluation.x[rows]
    low, high = box.around(x)
    at = x.astype(np.result_type(x.dtype, np.float32))
    right = np.ones(len(rows), dtype=bool)
    for step in range(STEPS):
        around = np.zeros(at.shape)
        for _ in range(DRAWS):
            near = at + np.asarray(box.eps) * rng.uniform(-1, 1, at.shape)
            near = np.clip(near, *box.bounds).astype(at.dtype)
            around += evaluation.direction(near, rows, "margin")
        stride = np.asarray(box.eps) * (1 - step / STEPS) / 2
        at = np.clip(at + stride * np.sign(around), low, high).astype(at.dtype)
        right &= evaluation.stays_right(as_data(at, x.dtype), rows)
    return right
