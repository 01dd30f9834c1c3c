"""Square, a search that asks a model for its outputs alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.safety.attacks import Box, Mask
from rlhf_tune.safety.evaluation import BATCH, Evaluation, batches

QUERIES = 500
_SHARE = 0.8  # of the features, that the first squares cover
_CHANNELS = (1, 3, 4)
# When the squares halve, of 10,000 queries (Andriushchenko et al., section 4).
_HALVES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square_survivors(
    evaluation: Evaluation, box: Box, alive: Mask, *, queries: int = QUERIES, seed: int = 0
) -> Mask:
    """Mask [N]: of the samples `alive`, those that a black-box search does not turn.

    Every candidate is a corner of the box; each query sets a random square of an image, or a
    random run of features, to one side of it for each channel, and is kept where the margin does
    not rise. Source: Andriushchenko et al. 2020, arXiv:1912.00049.
    """
    alive = alive.copy()
    rng = np.random.default_rng([seed, len(_HALVES)])
    for rows in batches(np.flatnonzero(alive), BATCH):
        alive[rows] = _search(evaluation, box, rows, queries, rng)
    return alive


def _search(
    evaluation: Evaluation,
    box: Box,
    rows: NDArray[np.intp],
    queries: int,
    rng: np.random.Generator,
) -> Mask:
    """Mask [B] of the samples that stay right."""
    x = evaluation.x[rows]
    low, high = box.around(x)
    to_image, height, width, channels = _layout(x.shape[1:])
    above = np.zeros((len(x), height, width, channels), dtype=bool)
    above[:] = rng.random((len(x), 1, width, channels)) < 0.5  # stripes
    least = np.full(len(x), np.inf)
    left = np.arange(len(x))
    for query in range(queries):
        tried = above[left]
        if query:
            _set_squares(tried, _side(query, queries, height, width), rng)
        flags = to_image(tried)
        moved = np.where(flags, high[left], low[left])
        margins = evaluation.margins(moved, rows[left])
        kept = margins <= least[left]
        above[left[kept]], least[left[kept]] = tried[kept], margins[kept]
        left = left[least[left] >= 0]
        if not len(left):
            break
    return np.asarray(least >= 0)


def _layout(shape: tuple[int, ...]) -> tuple[Any, int, int, int]:
    """How flags [B, H, W, C] become those of samples [B, *shape], and H, W and C.

    Three axes are an image, whose channels are the axis of 1, 3 or 4, the last one first; two are
    an image of one channel; anything else is a row of features.
    """
    if len(shape) == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        return lambda flags: flags.transpose(0, 3, 1, 2), shape[1], shape[2], shape[0]
    if len(shape) == 3:
        return lambda flags: flags, shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return lambda flags: flags[..., 0], shape[0], shape[1], 1
    return lambda flags: flags.reshape(len(flags), *shape), 1, int(np.prod(shape)), 1


def _side(query: int, queries: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of the square of a query."""
    passed = sum(query * 10_000 / queries > at for at in _HALVES)
    area = _SHARE / 2**passed * height * width
    if height == 1:
        return 1, int(np.clip(round(area), 1, width))
    side = max(1, round(np.sqrt(area)))
    return min(side, height), min(side, width)


def _set_squares(above: NDArray[np.bool_], side: tuple[int, int], rng: np.random.Generator) -> None:
    """Set a square of each sample [B, H, W, C] to one side for each channel, in place."""
    n, height, width, channels = above.shape
    top = rng.integers(0, height - side[0] + 1, n)[:, None, None] + np.arange(side[0])[:, None]
    start = rng.integers(0, width - side[1] + 1, n)[:, None, None] + np.arange(side[1])
    flags = rng.random((n, 1, 1, channels)) < 0.5
    above[np.arange(n)[:, None, None], top, start] = flags
