"""What a release must satisfy: a file in TOML, or the same as command-line options."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.robustness import AttackName

ATTACKS: tuple[AttackName, ...] = ("noise", "fgsm", "pgd")

OUTPUTS: Mapping[str, str] = {"report": ".json", "junit": ".xml", "markdown": ".md"}

_SWEEP = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # in multiples of eps


@dataclass(frozen=True)
class Spec:
    """What `rlhf-tune gate` was asked; each field is an option and a key of the spec file.

    Attributes:
        data: An npz file with ``x`` [N, ...], ``y`` [N] and, if wanted, groups.
        eps: Radius (Linf) of the attacks, in the units of `x`.
        min_robust_accuracy: Floor of the accuracy under the worst of all attacks, of all
            samples and of each group.
        min_accuracy: Floor of the accuracy without attack.
        bounds: Range of the data.
        attack: The curves of the sweep. The verdict counts noise, FGSM and PGD in any case.
        sweep: Radii of the sweep; by default 0 and .25, .5, 1, 1.5 and 2 times `eps`.
        groups: Names of arrays in `data`; None takes ``groups`` if it is there.
        members: An npz file with samples the model was trained on, for `max_leakage`.
        max_leakage: Ceiling of the membership leakage; `data` are the samples it has not seen.
        baseline: The model that must not be fallen behind, by more than `margin`.
        margin: How much robust accuracy may be lost against `baseline`.
        factory: ``package.module:function`` that builds the model for a file of weights alone.
        baseline_factory: The same for `baseline`; by default `factory`.
        confidence: Of every one-sided bound that decides.
        max_samples: Measure on this many samples, chosen by `seed`.
        seed: Of that choice and of the attacks' random starts.
        report: Where to write JSON.
        junit: Where to write JUnit XML.
        markdown: Where to write Markdown, with a picture beside it.
    """

    data: Path
    eps: float
    min_robust_accuracy: float
    min_accuracy: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    attack: tuple[AttackName, ...] = ATTACKS
    sweep: tuple[float, ...] | None = None
    groups: tuple[str, ...] | None = None
    members: Path | None = None
    max_leakage: float | None = None
    baseline: Path | None = None
    margin: float | None = None
    factory: str | None = None
    baseline_factory: str | None = None
    confidence: float = 0.95
    max_samples: int | None = None
    seed: int = 0
    report: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidInputError` for the value that breaks its rule."""
        for name in ("min_robust_accuracy", "min_accuracy", "max_leakage", "margin"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InvalidInputError(
                    f"`{name}` must be within (0, 1), but got {value:g}; 0.5 means 50 %, and "
                    f"nothing can certify a bound at the end"
                )
        if not 0.5 < self.confidence < 1:
            raise InvalidInputError(
                f"`confidence` must be within (0.5, 1), but got {self.confidence:g}"
            )
        for one, other in (("members", "max_leakage"), ("baseline", "margin")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise InvalidInputError(f"`{one}` and `{other}` must be given together")
        if self.max_samples is not None and self.max_samples < 1:
            raise InvalidInputError(f"`max_samples` must be at least 1, but got {self.max_samples}")
        if self.seed < 0:
            raise InvalidInputError(f"`seed` must be at least 0, but got {self.seed}")
        if not self.eps > 0:
            raise InvalidInputError(f"`eps` must be above 0, but got {self.eps:g}")

        reach = self.bounds[1] - self.bounds[0]
        if not all(0 <= radius <= reach for radius in self.sweep or ()):
            raise InvalidInputError(
                f"`sweep` must be within the data range (0, {reach:g}), but got {self.sweep}"
            )

    @property
    def radii(self) -> tuple[float, ...]:
        """The radii of the sweep, rising."""
        if self.sweep is not None:
            return tuple(sorted(set(self.sweep)))
        largest = (self.bounds[1] - self.bounds[0]) / 2
        return tuple(sorted({min(self.eps * k, max(self.eps, largest)) for k in _SWEEP}))

    def as_json(self) -> dict[str, Any]:
        """What was asked, without where: of paths only the name; defaults included."""
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.name if isinstance(value, Path) else value
            for name, value in rows.items()
            if name not in OUTPUTS
        }


def gather(path: str | os.PathLike[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a spec file and of options, which take precedence, each of its type.

    Args:
        path: A TOML file; its paths are relative to its folder. None for options alone.
        given: Options by field, in the types of TOML; paths relative to the current folder.

    Raises:
        InvalidInputError: If the file cannot be read, has unknown keys or values of wrong types.
    """
    return {**(_read(Path(path)) if path is not None else {}), **_checked(given)}


def of_values(values: Mapping[str, Any]) -> Spec:
    """The spec of what `gather` found.

    Raises:
        InvalidInputError: If something is missing, or the spec as a whole breaks a rule.
    """
    missing = [name for name in ("data", "eps", "min_robust_accuracy") if name not in values]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise InvalidInputError(f"{options} must be given, as an option or in the spec file")
    return Spec(**values)


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise InvalidInputError(f"the spec {str(path)!r} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"the spec {str(path)!r} must be TOML, but: {exc}") from exc
    unknown = sorted(table.keys() - _READERS.keys())
    if unknown:
        raise InvalidInputError(
            f"the spec {path.name!r} has the unknown keys {unknown}; known are {sorted(_READERS)}"
        )
    return {
        name: path.parent / value if isinstance(value, Path) else value
        for name, value in _checked(table).items()
    }


def _checked(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _READERS[name](name, value) for name, value in table.items()}


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond all floats
        pass
    raise InvalidInputError(f"`{name}` must be a finite number, but got {value!r}")


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


def _output(name: str, value: Any) -> Path:
    """A place to write to, told by its suffix from everything that is read."""
    path = _path(name, value)
    if path.suffix != OUTPUTS[name]:
        raise InvalidInputError(f"`{name}` must end in {OUTPUTS[name]}, but got {value!r}")
    return path


def _items(name: str, value: Any, read_item: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInputError(f"`{name}` must be a list of at least one value, but got {value!r}")
    return tuple(read_item(name, item) for item in value)


def _pair(name: str, value: Any) -> tuple[float, float]:
    pair = _items(name, value, _number)
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise InvalidInputError(f"`{name}` must be [low, high] with low < high, but got {value!r}")
    return pair[0], pair[1]


def _attacks(name: str, value: Any) -> tuple[str, ...]:
    found = _items(name, value, _text)
    unknown = sorted(set(found) - set(get_args(AttackName)))
    if unknown:
        raise InvalidInputError(f"`{name}` must be of {list(ATTACKS)}, but got {unknown}")
    return tuple(attack for attack in ATTACKS if attack in found)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "data": _path,
    "eps": _number,
    "min_robust_accuracy": _number,
    "min_accuracy": _number,
    "bounds": _pair,
    "attack": _attacks,
    "sweep": lambda name, value: _items(name, value, _number),
    "groups": lambda name, value: _items(name, value, _text),
    "members": _path,
    "max_leakage": _number,
    "baseline": _path,
    "margin": _number,
    "factory": _text,
    "baseline_factory": _text,
    "confidence": _number,
    "max_samples": _whole,
    "seed": _whole,
    **dict.fromkeys(OUTPUTS, _output),
}
