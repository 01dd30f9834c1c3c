"""The groups that samples belong to: of one attribute, of several, and of their intersections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError

Key = str | tuple[str, ...]
"""The name of an attribute; of an intersection, a tuple of names."""

_FEW = 20  # different numbers, of what is not taken for a measurement such as an income


@dataclass(frozen=True)
class Level:
    """The groups of one attribute, or of an intersection, that have enough members.

    Attributes:
        key: Of the attribute, or the attributes.
        names: Of the groups [G].
        codes: The group [N] of each sample; -1 for those of groups that are left out.
        skipped: Why, by the names of the groups left out.
    """

    key: Key
    names: tuple[str, ...]
    codes: NDArray[np.int64]
    skipped: Mapping[str, str]

    @property
    def label(self) -> str:
        """The key as a text."""
        return self.key if isinstance(self.key, str) else " x ".join(self.key)

    def counts(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many samples [G] of each group are in the mask [N]."""
        return np.bincount(self.codes[mask & (self.codes >= 0)], minlength=len(self.names))


def levels_of(sensitive: Any, n: int, min_group_size: int) -> list[Level]:
    """Every attribute, and every intersection of two or more of them, as it is handed in.

    Args:
        sensitive: Group labels [N]; or several such arrays by name, as a mapping or data frame.
        n: Samples that they belong to.
        min_group_size: Members that a group must have.

    Raises:
        InvalidInputError: If there is no attribute, one is missing values, is of another length,
            has one group or none large enough, or is continuous.
    """
    columns = {name: _column(name, labels, n) for name, labels in _named(sensitive).items()}
    levels = [_level(name, labels, min_group_size) for name, labels in columns.items()]
    for level in levels:
        if len(level.names) < 2:
            raise InvalidInputError(
                f"`sensitive` must have at least two groups of {min_group_size} or more samples, "
                f"but {level.label!r} has {list(level.names) or 'none'}"
                f"{_said(level.skipped)}"
            )
    for size in range(2, len(columns) + 1):
        for names in combinations(columns, size):
            joined = _joined([columns[name] for name in names])
            levels.append(_level(names, joined, min_group_size))
    return levels


def labels_by_key(
    groups: Any, keys: Sequence[Key], n: int | None = None
) -> dict[Key, NDArray[np.str_]]:
    """The group [N] of each sample as a text, for attributes and intersections.

    Args:
        groups: As `levels_of` takes them.
        keys: Of the levels that are asked for.
        n: Samples that they belong to; None for as many as there are.

    Raises:
        InvalidInputError: If an attribute is missing, or breaks its rule.
    """
    named = _named(groups)
    asked = sorted({name for key in keys for name in ([key] if isinstance(key, str) else key)})
    missing = [name for name in asked if name not in named]
    if missing:
        raise InvalidInputError(
            f"`groups` must have the attributes of the constraint, {asked}, but has {sorted(named)}"
        )
    columns = {name: _column(name, named[name], n, of="groups") for name in asked}
    return {
        key: columns[key] if isinstance(key, str) else _joined([columns[name] for name in key])
        for key in keys
    }


def _said(skipped: Mapping[str, str]) -> str:
    reasons = [f"{group}: {why}" for group, why in skipped.items()]
    return f" ({'; '.join(reasons[:3])})" if reasons else ""


def _named(sensitive: Any) -> dict[str, Any]:
    if isinstance(sensitive, Mapping):
        named = {str(name): labels for name, labels in sensitive.items()}
    elif hasattr(sensitive, "columns"):  # a data frame, of whichever library
        named = {str(name): sensitive[name] for name in sensitive.columns}
    else:
        named = {"group": sensitive}
    if not named:
        raise InvalidInputError("`sensitive` must have at least one attribute, but has none")
    return named


def _column(name: str, labels: ArrayLike, n: int | None, of: str = "sensitive") -> NDArray[np.str_]:
    """The group [N] of each sample as a text."""
    said = f"`{of}[{name!r}]`"
    found = check_labels(said, labels)
    if n is not None and len(found) != n:
        raise InvalidInputError(
            f"{said} must have a group for each of the {n} samples, but has {len(found)}"
        )
    if found.dtype.kind not in "US" and len(np.unique(found)) > _FEW:
        raise InvalidInputError(
            f"{said} must be groups, but has {len(np.unique(found))} different numbers; cut them "
            f"into ranges, as by numpy.digitize, or make them text if they are names"
        )
    return found.astype(str)


def _level(key: Key, labels: NDArray[np.str_], min_group_size: int) -> Level:
    groups, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    large = counts >= min_group_size
    places = np.where(large, np.cumsum(large) - 1, -1)
    skipped = {
        str(group): f"{count} of at least {min_group_size} samples"
        for group, count in zip(groups[~large], counts[~large], strict=True)
    }
    return Level(key, tuple(map(str, groups[large])), places[codes], skipped)


def _joined(columns: list[NDArray[np.str_]]) -> NDArray[np.str_]:
    return np.array([", ".join(row) for row in zip(*columns, strict=True)])


def skipped_of(levels: list[Level]) -> Iterator[tuple[str, str]]:
    """Every group that is left out, with its level, and why."""
    for level in levels:
        for group, why in level.skipped.items():
            yield f"{level.label}: {group}", why


def check_labels(name: str, groups: ArrayLike) -> NDArray[Any]:
    """The group of each sample [N], none of them missing.

    Args:
        name: Of the groups, for messages, as it should be printed.
        groups: Text or numbers.

    Raises:
        InvalidInputError: If there is no sample, a group is None or NaN, or groups cannot be told
            apart.
    """
    try:
        labels = as_array(name, groups) if hasattr(groups, "detach") else np.asarray(groups)
    except ValueError as exc:
        raise InvalidInputError(f"{name} must be one label per sample [N], but: {exc}") from exc
    if labels.ndim != 1 or not labels.size:
        raise InvalidInputError(
            f"{name} must be one label per sample [N], but got the shape {labels.shape}"
        )
    as_given: Any = groups if labels.dtype.kind == "U" else labels  # NumPy makes text of [1, "1"]
    given = list(as_given)
    masked = int(groups.mask.sum()) if isinstance(groups, np.ma.MaskedArray) else 0
    missing = masked or sum(map(_missing, given))
    if missing:
        raise InvalidInputError(
            f"each sample must have a group, but {missing} of {len(given)} are None or NaN; "
            f"give them a name, as 'unknown', or leave these samples out"
        )
    texts = sum(isinstance(label, str) for label in given)
    if 0 < texts < len(given):
        raise InvalidInputError(
            f"groups must be all text or all numbers, but {texts} of {len(given)} are text: "
            f"1 and '1' would be one group"
        )
    plain = np.asarray(labels.tolist()) if labels.dtype.kind in "OT" else labels
    if plain.ndim != 1 or plain.dtype.kind not in "biufUSMm":
        raise InvalidInputError(
            f"groups must be text or numbers, but are of {type(given[0]).__name__}"
        )
    return plain


def _missing(label: Any) -> bool:
    """Whether a label is None, NaN, or pandas' NA, which refuses to be compared."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True
