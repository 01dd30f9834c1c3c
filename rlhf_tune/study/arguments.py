"""What a sampler may be given, by type and range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from rlhf_tune.errors import InvalidInputError


class _Rule(NamedTuple):
    says: str
    holds: Callable[[Any], bool]


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is not bool and isinstance(v, Integral) and int(v) >= least


def _within(low: float, below: float) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, Real) and low <= float(v) < below


_RULES = {
    "policy": _Rule("be the name of a policy or of its file", lambda v: isinstance(v, str)),
    "roles": _Rule("be a mapping of names", lambda v: v is None or isinstance(v, Mapping)),
    "start": _Rule("be a mapping of names", lambda v: v is None or isinstance(v, Mapping)),
    "budget": _Rule("be at least 1 trial, and whole", lambda v: v is None or _whole(1)(v)),
    "confidence": _Rule("be within [0, 1)", _within(0, 1)),
    "price": _Rule("not be negative, and finite", lambda v: v is None or _within(0, math.inf)(v)),
    "max_unsafe": _Rule("not be negative, and whole", lambda v: v is None or _whole(0)(v)),
    "seed": _Rule("be a whole number >= 0", lambda v: v is None or _whole(0)(v)),
}


def check(**given: Any) -> None:
    """See that each argument keeps its rule.

    Raises:
        InvalidInputError: If one does not.
    """
    for name, value in given.items():
        rule = _RULES[name]
        if not rule.holds(value):
            raise InvalidInputError(f"`{name}` must {rule.says}, but got {value!r}")
