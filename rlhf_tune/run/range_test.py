"""Which rates a range test tries: searches that yield a rate, are sent the loss, return a rate.

A search whose budget is used up ends at the rate that it would try next.
"""

from __future__ import annotations

import math
from collections.abc import Generator

Search = Generator[float, float, float]
"""Sent is the validation loss after a few steps at the rate, from the state before training."""

_BOLDEST = 10**1.25  # the first rate probed from scratch, relative to the usual one
_BATCH = 32  # for which it was chosen, on train tasks as the two below
_STEP = 10**0.5
_CLEARLY = 0.2  # worse, relative to the loss before
_GENTLEST = 10**0.5  # as `_BOLDEST`, in fine-tuning; chosen on validation tasks
_ROUNDING = 1 + 1e-6  # a framework may keep a rate in single precision
# Of the loss with others' targets: fresh networks on tasks of few features fall below .7 by luck in
# a tenth of draws and below .5 in a hundredth; pre-trained ones of the validation tasks have .43.
_KNOWS = 0.5


def is_trained(knowledge: float) -> bool:
    """Whether a model has learned its task before.

    Args:
        knowledge: Its loss, relative to that with the targets of other samples; NaN if not known.
    """
    return knowledge < _KNOWS


def from_scratch(usual: float, start: float, batch_size: float | None = None) -> Search:
    """From high rates downwards, to the first that does not make things clearly worse.

    It begins at about 18 times the usual rate and goes down by half a decade. Whatever is not
    clearly worse is taken: the run warms up to it, and the guard cuts a rate that is too large,
    while one that is too small is never found out. With batches below 32 it begins lower, by the
    root of their size: their gradients are noisier.

    Args:
        usual: The framework's default rate.
        start: The validation loss before the probes.
        batch_size: In effect; None where it is not known.
    """
    size = _BATCH if batch_size is None else min(_BATCH, batch_size)
    rate = _BOLDEST * usual * math.sqrt(size / _BATCH)
    while not (yield rate) <= start + _CLEARLY * abs(start):
        rate /= _STEP
    return rate


def fine_tuning(given: float, usual: float, start: float) -> Search:
    """The given rate, then from a few times the usual one downwards to the first harmless one.

    What a model knows must not be destroyed: harmless is a rate after which the loss is not above
    `start`, nor clearly above that after the given rate. Within half a decade above a harmless
    given rate none is probed: the run warms up to its rate, so it bears more than a probe, which
    jumps to it, and in short runs every probe is a part of the training that is missed. Below the
    given rate it goes only if that is harmful itself.

    Args:
        given: By the user.
        usual: The framework's default rate.
        start: The validation loss before the probes.
    """
    reference = yield given
    harmless = reference <= start
    top = _GENTLEST * usual
    rate = top if top > given else given / _STEP
    while not (harmless and rate <= given * _STEP * _ROUNDING):
        loss = yield rate
        if loss <= start and not loss > reference + _CLEARLY * abs(start):
            return rate
        rate /= _STEP
    return max(rate, given)
