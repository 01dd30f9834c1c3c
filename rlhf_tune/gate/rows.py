"""One row a value of the spec: its key and option, how it is read, and what is made of it.

Loads nothing heavy, since the command line builds its help from rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_tune.errors import InvalidInputError

if TYPE_CHECKING:
    from rlhf_tune.gate.npz import Samples
    from rlhf_tune.gate.requirements import Evidence
    from rlhf_tune.safety.measurement import Constraint


Floor = tuple[str, int, float]
"""A name, the number of different samples behind it, and what share of them must be right."""


def _any(name: str, value: Any) -> None:
    """The rule that every value keeps."""


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        read: From its name and TOML's value to the value; raises `InvalidInputError` for another
            type.
        option: How argparse reads it: ``type``, ``nargs``.
        rule: Raises `InvalidInputError` for the name and value that break it.
    """

    read: Callable[[str, Any], Any]
    option: Mapping[str, Any] = field(default_factory=dict)
    rule: Callable[[str, Any], None] = _any


@dataclass(frozen=True)
class Row:
    """A key of the spec file, which is also an option of the command line.

    Attributes:
        name: The key; the option has hyphens.
        kind: What its value may be.
        help: Of the option.
        metavar: Of the option.
        group: Title of its options in the help.
        required: Whether it must be given.
        build: For a requirement, the constraints of its value and the evidence.
        floors: For a requirement, those that need so many samples, from its value and the samples.
        needs: The key that must be given together with it.
        arrays: Names of arrays of the data file, besides x, y and groups, that `build` needs.
    """

    name: str
    kind: Kind
    help: str
    metavar: str | tuple[str, ...]
    group: str = "requirements"
    required: bool = False
    build: Callable[[Any, Evidence], Iterator[Constraint]] | None = None
    floors: Callable[[Any, Samples], Iterable[Floor]] = lambda *_: ()
    needs: str | None = None
    arrays: tuple[str, ...] = ()


def output(suffix: str) -> Kind:
    """A place to write to, told by its suffix from everything that is read."""

    def read(name: str, value: Any) -> Path:
        path = _path(name, value)
        if path.suffix != suffix:
            raise InvalidInputError(f"`{name}` must end in {suffix}, but got {value!r}")
        return path

    return Kind(read)


_FRACTION = re.compile(r"\s*(\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)\s*", re.ASCII)


def _number(name: str, value: Any) -> float:
    """A finite number, or a fraction of two as a text: ``"8/255"``."""
    parts = _FRACTION.fullmatch(value) if isinstance(value, str) else None
    if parts and float(parts[2]):
        value = float(parts[1]) / float(parts[2])
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond all floats
        pass
    raise InvalidInputError(f"`{name}` must be a finite number, but got {value!r}")


def _numbers(name: str, value: Any) -> Any:
    """A number, or lists of numbers, as deep as the samples have axes, to be broadcast."""
    if not isinstance(value, list):
        return _number(name, value)
    if not value:
        raise InvalidInputError(f"`{name}` must hold at least one number, but got []")
    parts = tuple(_numbers(name, item) for item in value)
    if len({_shape(part) for part in parts}) > 1:
        raise InvalidInputError(f"`{name}` must have rows of one length, but got {value!r}")
    return parts


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, tuple) else ()


def _flat(value: Any) -> list[float]:
    return [number for item in value for number in _flat(item)] if _shape(value) else [value]


def _whole(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise InvalidInputError(f"`{name}` must be a whole number, but got {value!r}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise InvalidInputError(f"`{name}` must be a text, but got {value!r}")


def _path(name: str, value: Any) -> Path:
    return Path(_text(name, value))


def _items(name: str, value: Any, read_item: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInputError(f"`{name}` must be a list of at least one value, but got {value!r}")
    return tuple(read_item(name, item) for item in value)


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    pair = _items(name, value, _numbers)
    if len(pair) != 2 or not all(width > 0 for width in widths(*pair)):
        raise InvalidInputError(
            f"`{name}` must be [low, high] with low < high, two numbers or two lists of one "
            f"length, but got {value!r}"
        )
    return pair[0], pair[1]


def widths(low: Any, high: Any) -> list[float]:
    """How wide a range is, by feature; NaN where its ends do not fit together."""
    lows, highs = _flat(low), _flat(high)
    most = max(len(lows), len(highs))
    if {len(lows), len(highs)} - {1, most}:
        return [math.nan]
    ends = (side * (most // len(side)) for side in (lows, highs))
    return [b - a for a, b in zip(*ends, strict=True)]


def _attacks(name: str, value: Any) -> tuple[str, ...]:
    found, known = _items(name, value, _text), ladder()
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise InvalidInputError(f"`{name}` must be of {list(known)}, but got {unknown}")
    return tuple(attack for attack in known if attack in found)


def ladder() -> tuple[Any, ...]:
    """The attacks of a verdict."""
    from rlhf_tune.safety.ladder import LADDER  # loads NumPy

    return LADDER


def _rule(ask: str, keeps: Callable[[Any], bool], remedy: str = "") -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not keeps(value):
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            raise InvalidInputError(f"`{name}` must be {ask}, but got {shown}{remedy}")

    return check


def _numeral(text: str) -> float | str:
    """A number of the command line; a fraction is read with the spec's."""
    return text if _FRACTION.fullmatch(text) else float(text)


def _no_radius(value: Any) -> bool:
    return min(_flat(value)) < 0 or max(_flat(value)) <= 0


_FLOAT, _INT = {"type": _numeral}, {"type": int}
_WIDTH = "; 0.5 means 50 %, and nothing can certify a bound at the end"

TEXT = Kind(_text)
TEXTS = Kind(lambda name, value: _items(name, value, _text), {"nargs": "+"})
FILE = Kind(_path)
NUMBERS = Kind(lambda name, value: _items(name, value, _number), {**_FLOAT, "nargs": "+"})
RANGE = Kind(_pair, {**_FLOAT, "nargs": 2})
RADIUS = Kind(_numbers, _FLOAT, _rule("above 0", lambda value: not _no_radius(value)))
SHARE = Kind(_number, _FLOAT, _rule("within (0, 1)", lambda value: 0 < value < 1, _WIDTH))
CONFIDENCE = Kind(_number, _FLOAT, _rule("within (0.5, 1)", lambda value: 0.5 < value < 1))
COUNT = Kind(_whole, _INT, _rule("at least 1", lambda value: value >= 1))
SEED = Kind(_whole, _INT, _rule("at least 0", lambda value: value >= 0))
_KINDS = ("auto", "logits", "probabilities")
OUTPUTS = Kind(
    _text,
    rule=_rule(
        f"one of {list(_KINDS)}",
        lambda value: value in _KINDS,
    ),
)
_METRICS = ("demographic_parity", "equal_opportunity", "equalized_odds")
METRIC = Kind(_text, rule=_rule(f"one of {list(_METRICS)}", lambda value: value in _METRICS))
ATTACKS = Kind(_attacks, {"type": lambda text: text.split(",")})
