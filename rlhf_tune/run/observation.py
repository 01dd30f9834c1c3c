"""What an agent sees of a training run: the one description of it, for `fit` and `TuningEnv`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Stretch

Floats = NDArray[np.float64]

FEATURES = (
    "loss",
    "loss above the best",
    "slope",
    "slope over four stretches",
    "training slope",
    "generalisation gap",
    "rate",
    "factor",
    "rate over batch",
    "batch",
    "progress",
    "length of a stretch",
    "cuts",
    "rolled back",
    "stretches since the last rollback",
    "certified",
    "margin",
    "rate move",
    "batch is to be chosen",
)
"""What `observe` returns."""

BOUND = 3.0
"""Features are clipped to plus and minus this."""

MARGIN_BOUND = 10.0
"""Margins are clipped to plus and minus this."""

_TINY = 1e-3  # losses below this share of the first count as this, as do those above 1 / this


def features(constraints: Sequence[str]) -> tuple[str, ...]:
    """What `observation` returns for a run with these constraints."""
    return (*FEATURES, *(f"margin {name}" for name in constraints))


def observation(state: RunState) -> NDArray[np.float32]:
    """The observation [19 + C] of an agent whose moves act on the rate in effect.

    It is `observe`, followed by the margin to each of the C constraints at the state in hand, minus
    its cost, clipped to ±10; 0 before it was measured.
    """
    rate = state.now["learning_rate"]
    seen = observe(state, rate, rate / state.learning_rate)
    measured = state.here.measurements if state.here else {}
    margins = [-measured[n].cost if n in measured else 0.0 for n in state.constraints]
    known = np.clip(np.nan_to_num(np.array(margins)), -MARGIN_BOUND, MARGIN_BOUND)
    return np.concatenate([seen, known]).astype(np.float32)


def observe(state: RunState, rate: float, factor: float) -> Floats:
    """The features [19] named by `FEATURES`, each of about unit size, within ±3.

    Losses are validation losses of committed stretches, relative to the one before training.
    "loss" is a decimal logarithm, slopes and the gap are natural ones, of ratios; "rate", "rate
    over batch" and "batch" are relative to the framework's default rate, to that at batch size 32,
    and to the first batch size. "margin" is the smallest of the constraints', times ten; "cuts",
    the stretches since the last rollback and the length of a stretch are scaled. What needs a
    stretch, or two, is 0 before. The last two belong to agents that choose the batch after the
    rate; see `rlhf_tune.run.dqn_moves.given`.

    Args:
        state: Of the run.
        rate: Of the stretch to come if nothing is moved.
        factor: What the moves so far have made of the rate.
    """
    done = validated(state)
    first = _reference(state)
    losses = [_share(s.validation["val_loss"], first) for s in done] or [1.0]
    training = [_share(s.training.get("loss", math.nan), first) for s in done] or [math.nan]
    two, five = min(2, len(losses)), min(5, len(losses))
    usual = state.usual_rate or state.learning_rate
    size, start = state.batch_size_now or 32, state.batch_size or 32
    verdicts = [stretch.committed for stretch in state.record]
    since = next((i for i, committed in enumerate(reversed(verdicts)) if not committed), 99)
    values = (
        math.log10(losses[-1]),
        math.log(losses[-1] / min(losses)),
        3 * math.log(losses[-1] / losses[-two]),
        math.log(losses[-1] / losses[-five]),
        3 * math.log(training[-1] / training[-two]),
        math.log(losses[-1] / training[-1]),
        math.log10(rate / usual),
        math.log2(factor) / 3,
        math.log10(rate / usual * 32 / size),
        math.log2(size / start) / 2,
        state.progress,
        math.log10(state.progress / (len(verdicts) + 0.5)) + 1.5,
        min(verdicts.count(False), 6) / 3,
        float(since == 0),
        min(since, 12) / 6,
        float(done[-1].satisfied if done else state.certified),
        10 * _margin(done[-1]) if done else 0.0,
        0.0,
        0.0,
    )
    return np.asarray(np.clip(np.nan_to_num(np.array(values)), -BOUND, BOUND))


def validated(state: RunState) -> list[Stretch]:
    """The committed stretches whose validation loss is known."""
    return [s for s in state.record if s.committed and "val_loss" in s.validation]


def _reference(state: RunState) -> float:
    """The loss before training, or else the first one known."""
    known = [state.loss_before]
    known += [s.validation.get("val_loss", math.nan) for s in state.record]
    return next((abs(loss) for loss in known if math.isfinite(loss) and loss), 1.0)


def _share(loss: float, first: float) -> float:
    return min(max(loss / first, _TINY), 1 / _TINY)


def _margin(stretch: Stretch) -> float:
    """To the nearest constraint; 0 without any."""
    return min((-m.cost for m in stretch.measurements.values()), default=0.0)
