"""Snapshots of a torch run as plain values, and what must be the same where they are taken up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune_integrations.pytorch.batches import FeedSnapshot
from rlhf_tune_integrations.pytorch.state import StateSnapshot

Snapshot = tuple[StateSnapshot, FeedSnapshot]

_TENSOR = "torch tensor"  # key of a mapping that stands for one
# Types that NumPy lacks, as integers of their size.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def saved(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as plain values that share no memory with it.

    Raises:
        InvalidInputError: If a tensor is sparse or of a type that has no bits to copy.
    """
    state, place = snapshot
    values = {each.name: plain(getattr(place, each.name)) for each in fields(place)}
    if place.order is not None:
        values["order"] = np.asarray(place.order)
    return {
        "state": {each.name: plain(getattr(state, each.name)) for each in fields(state)},
        "place": values,
    }


def loaded(values: Mapping[str, Any]) -> Snapshot:
    """A snapshot from what `saved` returned."""
    place = {name: revived(value) for name, value in values["place"].items()}
    if place["order"] is not None:
        place["order"] = tuple(place["order"].tolist())
    state = {name: revived(value) for name, value in values["state"].items()}
    return StateSnapshot(**state), FeedSnapshot(**place)


def identity(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, others: Iterable[Any]
) -> dict[str, Any]:
    """What must be the same where a snapshot is taken up, by name."""
    weights = [*model.named_parameters(), *model.named_buffers()]
    options = {k: v for k, v in optimizer.defaults.items() if k != "lr"}  # the run moves it
    return {
        "framework": "torch",
        "weights": {name: [list(w.shape), str(w.dtype), str(w.device)] for name, w in weights},
        "optimizer": [type(optimizer).__name__, repr(sorted(options.items()))],
        "parameter groups": [len(group["params"]) for group in optimizer.param_groups],
        "state": [type(other).__name__ for other in others],
    }


def plain(value: Any) -> Any:
    """Nested tensors as arrays of their own; the rest as it is."""
    if isinstance(value, Tensor):
        array, kind = _bits(value.detach())
        return {_TENSOR: array, "type": kind, "device": str(value.device)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    return value


def _bits(tensor: Tensor) -> tuple[Any, str]:
    """What a tensor holds, in an array of its own, and the name of its type."""
    kind = str(tensor.dtype).removeprefix("torch.")
    try:
        plain = tensor.cpu()
        if plain.is_complex() or kind.startswith(("bfloat", "float8")):
            plain = torch.view_as_real(plain) if plain.is_complex() else _as_bits(plain)
        return plain.numpy().copy(), kind
    except (RuntimeError, TypeError, KeyError) as exc:
        raise InvalidInputError(
            f"a tensor that is written must be dense and of numbers, but one is "
            f"{tensor.layout} of {tensor.dtype}: {exc}"
        ) from exc


def _as_bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(_BITS[tensor.element_size()])


def revived(value: Any) -> Any:
    """From what `plain` returned."""
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return _tensor(value[_TENSOR], getattr(torch, value["type"])).to(value["device"])
        return {key: revived(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(revived(each) for each in value)
    return value


def _tensor(array: Any, kind: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    if kind.is_complex:
        return torch.view_as_complex(tensor)
    return tensor if tensor.dtype == kind else tensor.view(kind)
