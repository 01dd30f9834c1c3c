"""What a parameter is, by its name as people write it.

A guess needs the words of a learning rate or a batch size, none that makes it something else of
one (its logarithm, decay, schedule), and a range that fits. A role that a user gives is not
guessed: there a range that does not fit is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlhf_tune.errors import InvalidInputError

Role = Literal["learning_rate", "batch_size", "other"]

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_PHRASES: dict[Role, tuple[str, ...]] = {
    "learning_rate": (
        *("lr", "lrate", "learnrate", "learningrate", "eta", "learning rate", "learn rate"),
        "step size",
    ),
    "batch_size": (
        "bs",
        "batch size",
        "batchsize",
        "minibatch",
        "minibatchsize",
        "minibatch size",
        "batch",
    ),
}
_ELSE = frozenset(
    {
        *("log", "ln", "exp", "exponent", "power", "pow", "number", "n", "num", "per"),
        *("factor", "mult", "multiplier", "ratio", "scale", "frac", "fraction", "rel", "relative"),
        *("decay", "gamma", "schedule", "scheduler", "policy", "warmup", "warm", "patience"),
        *("min", "final", "end", "steps", "epochs", "momentum", "drop", "norm", "normalization"),
        *("eval", "val", "valid", "validation", "test", "accumulation"),
    }
)
_BARE = frozenset({"eta", "batch", "minibatch", "bs"})  # say it only at the end of a name


def check_roles(roles: Mapping[str, str] | None) -> dict[str, Role]:
    """Copy a user's mapping of roles.

    Raises:
        InvalidInputError: If a role is unknown.
    """
    known: dict[str, Role] = {str(role): role for role in get_args(Role)}
    for name, role in (roles or {}).items():
        if role not in known:
            raise InvalidInputError(
                f"a role must be one of {sorted(known)}, but `{name}` got {role!r}"
            )
    return {name: known[role] for name, role in (roles or {}).items()}


def role_of(name: str, distribution: BaseDistribution, given: Role | None) -> Role:
    """The role that was given, else what the name and the range say.

    Raises:
        InvalidInputError: If a given role does not fit the distribution.
    """
    if given is not None:
        _check_fits(name, distribution, given)
        return given
    guess = guessed(name)
    return guess if _plausible(distribution, guess) else "other"


def guessed(name: str) -> Role:
    """What a name alone says."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if words[:3] == ["per", "device", "train"]:  # Hugging Face's
        words = words[3:]
    if _ELSE & set(words):
        return "other"
    plain = [word for word in words if not word.isdigit()]
    for role, phrases in _PHRASES.items():
        if any(_says(plain, phrase.split()) for phrase in phrases):
            return role
    return "other"


def _says(words: list[str], phrase: list[str]) -> bool:
    if phrase[0] in _BARE and len(phrase) == 1:
        return words[-1:] == phrase
    places = range(len(words) - len(phrase) + 1)
    return any(words[i : i + len(phrase)] == phrase for i in places)


def _plausible(distribution: BaseDistribution, role: Role) -> bool:
    """Whether a range is such as people search for this role."""
    values = _numbers(distribution)
    if role == "other" or values is None:
        return role == "other"
    if role == "batch_size":
        return not isinstance(distribution, FloatDistribution) and _whole(values)
    whole_steps = isinstance(distribution, IntDistribution)  # an interval of a schedule
    return not whole_steps and min(values) >= 0 < max(values)


def _check_fits(name: str, distribution: BaseDistribution, role: Role) -> None:
    values = _numbers(distribution)
    if values is None and role != "other":
        raise InvalidInputError(
            f"a {role.replace('_', ' ')} must be a number, but `{name}` ranges over {distribution}"
        )
    if values is None:
        return
    continuous = isinstance(distribution, FloatDistribution) and distribution.step is None
    if role == "batch_size" and (continuous or not _whole(values)):
        raise InvalidInputError(
            f"a batch size must be an integer of at least 1, but `{name}` ranges over "
            f"{distribution}; use suggest_int, or say roles={{{name!r}: 'other'}}"
        )
    if role == "learning_rate" and min(values) < 0:
        raise InvalidInputError(
            f"a learning rate must not be negative, but `{name}` ranges over {distribution}; "
            f"correct the range, or say roles={{{name!r}: 'other'}}"
        )


def _whole(values: list[float]) -> bool:
    return all(value.is_integer() and value >= 1 for value in values)


def _numbers(distribution: BaseDistribution) -> list[float] | None:
    """The ends and the step of a range, or all choices; None where these are no numbers."""
    if isinstance(distribution, CategoricalDistribution):
        numbers = [number(choice) for choice in distribution.choices]
        return None if None in numbers else [float(each) for each in numbers if each is not None]
    if isinstance(distribution, FloatDistribution | IntDistribution):
        step = [] if distribution.step is None else [float(distribution.step)]
        return [float(distribution.low), float(distribution.high), *step]
    return None


def number(value: Any) -> float | None:
    """A finite number, or a text that says one; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
