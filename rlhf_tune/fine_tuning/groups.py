"""Groups of layers: stem, blocks and head, so many parts, or as the user names them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError, plain
from rlhf_tune.frameworks import framework_of

Kind = Literal["embedding", "norm", "layer"]
Groups = Mapping[str, tuple[str, ...]]
"""Names of units by name of their group, from the inputs to the outputs."""
GroupsLike = str | int | Sequence[str] | Mapping[str, str | Sequence[str]]

ALL = "all"


@dataclass(frozen=True)
class Unit:
    """The smallest part of a model that is tuned by itself: a layer with weights of its own.

    A weight that two layers share belongs to the first of them.

    Attributes:
        name: As the framework names it.
        size: Its weights.
        trainable: Those of them that the user has not frozen.
        kind: "embedding" is what a model begins with; a "norm" goes with the layer before it.
    """

    name: str
    size: int
    trainable: int
    kind: Kind = "layer"


class Layers(Protocol):
    """The layers of a model, as an adapter knows them."""

    @property
    def units(self) -> Sequence[Unit]:
        """From the inputs to the outputs, in the order in which the model names them."""
        ...

    def only(self, names: Collection[str]) -> AbstractContextManager[None]:
        """Inside, training changes nothing but these units, their statistics included.

        On leaving, what was frozen and what was trained is as before.
        """
        ...

    def weights(self, name: str) -> list[NDArray[np.float32]]:
        """Copies of the trainable weights of a unit."""
        ...

    def assign(self, name: str, weights: Sequence[NDArray[np.floating[Any]]]) -> None:
        """Put weights of these shapes into a unit."""
        ...

    def gradients(self, trainer: Any) -> Mapping[str, float]:
        """Norms of the gradient of the training loss, by unit; nothing is changed.

        Args:
            trainer: Of the adapter, over this model; empty where its batches cannot be looked at
                ahead.
        """
        ...


def layers_of(model: Any) -> Layers:
    """The layers of a model of any framework.

    Raises:
        UnsupportedModelError: If its adapter knows no layers, or none of them can be trained.
    """
    find = getattr(framework_of(model), "layers_of", None)
    if find is None:
        raise UnsupportedModelError(
            f"the model must be of a framework whose adapter has `layers_of`, but got "
            f"{type(model).__qualname__}; fine-tune with rlhf_tune_integrations.keras or .pytorch"
        )
    return cast(Layers, find(model))


def divide(units: Sequence[Unit], groups: GroupsLike = "auto") -> Groups:
    """Groups of units.

    Args:
        units: From the inputs to the outputs; frozen ones take no part.
        groups: "auto" (stem, blocks, head), a number of parts, names or patterns (`"conv*"`), one
            a group, or a mapping of names to patterns. With "auto" and a number a last group,
            "all", is everything.

    Raises:
        InvalidInputError: If a group would be empty, or there are fewer units than parts.
        UnsupportedModelError: If nothing can be trained.
    """
    known = [unit for unit in units if unit.trainable]
    if not known:
        raise UnsupportedModelError(
            "the model must have layers that can be trained, but has none that is not frozen; "
            "set requires_grad or trainable of some"
        )
    if isinstance(groups, Mapping):
        return {name: _matching(known, name, patterns) for name, patterns in groups.items()}
    if isinstance(groups, bool) or not isinstance(groups, str | int | Sequence) or not groups:
        raise InvalidInputError(
            f"`groups` must be 'auto', a number of parts, names or patterns, or a mapping of "
            f"names to patterns, but got {groups!r}"
        )
    if isinstance(groups, Sequence) and groups != "auto":
        patterns = [groups] if isinstance(groups, str) else groups
        return {pattern: _matching(known, pattern, pattern) for pattern in patterns}
    parts = _auto(known) if isinstance(groups, str) else _parts(known, groups)
    everything = tuple(unit.name for unit in known)
    return {**parts, ALL: everything} if len(parts) > 1 else {ALL: everything}


def describe_groups(model: Any, groups: GroupsLike = "auto") -> Groups:
    """Print the groups of a model's layers, with the number of their weights; returns them.

    Args:
        model: Of any framework that has an adapter; it must be built.
        groups: As `fine_tune` takes them; see `divide`.

    Raises:
        InvalidInputError: If they do not fit the model.
        UnsupportedModelError: If nothing of it can be trained.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    units = layers_of(model).units
    found = divide(units, groups)
    sizes = {unit.name: unit.trainable for unit in units}
    table = Table("group", "layers", "weights", "share")
    total = sum(sizes.values())
    for name, members in found.items():
        size = sum(sizes[member] for member in members)
        table.add_row(
            Text(plain(name)), Text(plain(_listed(members))), f"{size:,}", f"{size / total:.0%}"
        )
    frozen = [unit for unit in units if not unit.trainable]
    if frozen:
        size = sum(unit.size for unit in frozen)
        table.add_row(
            "(frozen)", Text(plain(_listed([unit.name for unit in frozen]))), f"{size:,}", ""
        )
    Console().print(table)
    return found


def _auto(units: Sequence[Unit]) -> dict[str, tuple[str, ...]]:
    """Stem: embeddings, or else the first layer. Head: the last layer. Norms go with the former."""
    parts = _joined(units)
    embedded = len(list(itertools.takewhile(lambda part: part[0].kind == "embedding", parts)))
    embedded = 0 if embedded == len(parts) else embedded  # a model without layers
    first = min(max(embedded, 1), max(len(parts) - 1, 1))
    named = {"stem": parts[:first], "blocks": parts[first:-1], "head": parts[max(first, 1) :][-1:]}
    return {name: _names(these) for name, these in named.items() if these}


def _parts(units: Sequence[Unit], count: int) -> dict[str, tuple[str, ...]]:
    """So many parts of about equal numbers of layers."""
    parts = _joined(units)
    if not 1 <= count <= len(parts):
        raise InvalidInputError(
            f"1 <= groups <= {len(parts)} must hold, the layers of the model that can be trained, "
            f"but got groups={count}"
        )
    ends = [len(parts) * i // count for i in range(count + 1)]
    return {f"part{i + 1}": _names(parts[a:b]) for i, (a, b) in enumerate(itertools.pairwise(ends))}


def _joined(units: Sequence[Unit]) -> list[list[Unit]]:
    """Layers, each with the norms that follow it."""
    parts: list[list[Unit]] = []
    for unit in units:
        if unit.kind == "norm" and parts:
            parts[-1].append(unit)
        else:
            parts.append([unit])
    return parts


def _names(parts: Sequence[Sequence[Unit]]) -> tuple[str, ...]:
    return tuple(unit.name for part in parts for unit in part)


def _matching(units: Sequence[Unit], group: str, patterns: str | Sequence[str]) -> tuple[str, ...]:
    """The units that a name or a pattern means; a name means what is inside of it too."""
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    found = tuple(u.name for u in units if any(_means(pattern, u.name) for pattern in wanted))
    if not found:
        raise InvalidInputError(
            f"the group {group!r} must have a layer that can be trained, but none is called "
            f"{' or '.join(map(repr, wanted))}; there are {_listed([u.name for u in units])}"
        )
    return found


def _means(pattern: str, name: str) -> bool:
    inside = any(name.startswith(f"{pattern}{mark}") for mark in "./")
    return inside or fnmatchcase(name, pattern)


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
