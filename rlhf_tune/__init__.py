"""Tune hyperparameters with a reinforcement-learning agent under safety constraints.

The public names are loaded on first use, so importing this package imports neither torch nor
TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_tune import gate, safety
    from rlhf_tune.errors import CannotCertify, RlhfTuneError
    from rlhf_tune.study.looking import explain, recommend, risk
    from rlhf_tune.study.sampler import DQNSampler

__version__ = "0.1.0"

__all__ = [
    "CannotCertify",
    "DQNSampler",
    "RlhfTuneError",
    "__version__",
    "explain",
    "gate",
    "recommend",
    "risk",
    "safety",
]

_HOME = {
    "CannotCertify": "rlhf_tune.errors",
    "DQNSampler": "rlhf_tune.study.sampler",
    "RlhfTuneError": "rlhf_tune.errors",
    "explain": "rlhf_tune.study.looking",
    "recommend": "rlhf_tune.study.looking",
    "risk": "rlhf_tune.study.looking",
}


def __getattr__(name: str) -> Any:
    if name in ("gate", "safety"):
        return importlib.import_module(f"rlhf_tune.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
