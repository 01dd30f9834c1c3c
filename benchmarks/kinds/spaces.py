"""The spaces of the kinds, as people write them; values outside of a space are `Setting`'s."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlhf_tune.study.space import DEFAULTS

Space = dict[str, BaseDistribution]


def _rate(low: float, high: float) -> Space:
    return {"learning_rate": FloatDistribution(low, high, log=True)}


def _sizes(low: int, high: int) -> Space:
    return {"batch_size": IntDistribution(low, high, log=True)}


def _one_of(*choices: int) -> Space:
    return {"batch_size": CategoricalDistribution(choices)}


_DECAY: Space = {"weight_decay": FloatDistribution(1e-6, 1e-1, log=True)}
_FOUR: Space = {
    **_rate(1e-5, 1.0),
    **_sizes(8, 512),
    **_DECAY,
    "momentum": FloatDistribution(0.0, 0.99),
}

SPACES: Mapping[str, Space] = {
    "listed": _rate(1e-5, 1.0) | _one_of(24, 48, 96, 192, 384, 768, 1024),
    "whole": _rate(1e-5, 1.0) | _sizes(8, 1024),
    "stepped": _rate(1e-5, 1.0) | {"batch_size": IntDistribution(16, 512, step=16)},
    "powers": _rate(1e-5, 1.0) | _one_of(*(2**k for k in range(3, 12))),
    "wide": _rate(1e-6, 1e-1),
    "narrow": _rate(1e-3, 3e-3),
    "linear": {"learning_rate": FloatDistribution(0.0, 0.5)},
    "four": _FOUR,
    "seven": _FOUR
    | {
        "dropout": FloatDistribution(0.0, 0.6),
        "width": IntDistribution(8, 128, log=True),
        "depth": IntDistribution(1, 4),
    },
    "eight": _rate(1e-5, 1.0)
    | _sizes(8, 256)
    | _DECAY
    | {
        "beta1": FloatDistribution(0.0, 0.99),
        "beta2": FloatDistribution(0.9, 0.9999),
        "clip": FloatDistribution(0.1, 10.0, log=True),
        "width": IntDistribution(8, 64, log=True),
        "warm_up": FloatDistribution(0.0, 0.5),
    },
    "categories": _rate(1e-5, 1.0)
    | _sizes(8, 1024)
    | {
        "optimizer": CategoricalDistribution(("sgd", "adam", "adamw")),
        "activation": CategoricalDistribution(("relu", "tanh", "gelu")),
        "schedule": CategoricalDistribution(("const", "cosine")),
    },
    "tuning": _rate(1e-6, 1.0) | _sizes(8, 256),
    "sized": _rate(1e-5, 1.0) | _sizes(8, 1024) | {"width": IntDistribution(8, 256, log=True)},
}

_USUAL: Mapping[str, Any] = {
    "learning_rate": DEFAULTS["learning_rate"],
    "batch_size": DEFAULTS["batch_size"],
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "dropout": 0.2,
    "width": 32,
    "depth": 2,
    "beta1": 0.9,
    "beta2": 0.999,
    "clip": 1.0,
    "warm_up": 0.1,
    "optimizer": "adam",
    "activation": "relu",
    "schedule": "const",
}


def start(space: Space) -> dict[str, Any]:
    """Where every method begins: the usual values, or the nearest that a space has."""
    return {name: _nearest(space[name], _USUAL[name]) for name in space}


def _nearest(distribution: BaseDistribution, usual: Any) -> Any:
    """The usual value itself where the distribution has it."""
    if isinstance(distribution, CategoricalDistribution):
        if usual in distribution.choices:
            return usual
        sizes = cast(tuple[int, ...], distribution.choices)
        return min(sizes, key=lambda size: abs(math.log(size / usual)))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return min(max(usual, distribution.low), distribution.high)
