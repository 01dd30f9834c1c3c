"""Reads PyTorch's model files without unpickling anything but tensors."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from rlhf_tune.errors import ArtifactError
from rlhf_tune.frameworks import WeightsOnly
from rlhf_tune_integrations.pytorch import exported
from rlhf_tune_integrations.pytorch.classify import as_arrays

State = Mapping[str, torch.Tensor]

_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def load(content: bytes, suffix: str) -> Any:
    """The model of a ``.pt2`` file, or the weights in another; see `Loader.load`."""
    if _is_torchscript(content):
        raise ArtifactError(
            "the file is a TorchScript archive, which holds code and is never loaded; save "
            "model.state_dict() and name the function that builds the model (--factory), or save "
            "a .pt2 file by torch.export.save"
        )
    if suffix == ".pt2":
        return exported.load(content)
    state = _safetensors(content) if suffix == ".safetensors" else _state_dict(content)
    arrays = as_arrays(state)
    return WeightsOnly(arrays, lambda model: _assign(model, state))


def _is_torchscript(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except Exception:  # noqa: BLE001 - whatever a file that is no archive, or damaged, leads to
        return False
    return any(re.match("[^/]+/code/", name) for name in names)


def _safetensors(content: bytes) -> State:
    try:
        return dict(safetensors.torch.load(content))
    except Exception as exc:
        raise ArtifactError(f"the file must be in the safetensors format, but: {exc}") from exc


def _state_dict(content: bytes) -> State:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ArtifactError(
            "the file must be a state dict of tensors, but its pickle holds more, or is damaged; "
            "pickled models are never loaded: save model.state_dict()"
        ) from exc
    except Exception as exc:  # its message may advise to load the file unsafely
        raise ArtifactError("the file must be a state dict by torch.save, but is damaged") from exc
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ArtifactError(
            f"the file must hold a state dict, but holds {type(state).__name__}; "
            f"save model.state_dict()"
        )
    inner = [name for name, value in state.items() if _is_state(value)]
    if inner:
        raise ArtifactError(
            f"the file holds a training checkpoint, with weights as {inner}; save those that are "
            f"to be served alone, as by torch.save(checkpoint[{inner[0]!r}], 'weights.pt')"
        )
    return state


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(part, torch.Tensor) for part in value.values())
    )


def _assign(model: Any, state: State) -> None:
    """Put weights into a model; afterwards it holds every one of them and no others."""
    if not isinstance(model, torch.nn.Module):
        raise ArtifactError(
            f"the file's weights are for a torch.nn.Module, but got {type(model).__name__}"
        )
    inner = getattr(model, "_orig_mod", model)
    own = {k: v for k, v in inner.state_dict().items() if isinstance(v, torch.Tensor)}
    named = _named_as(own, state)
    tied = _tied(own, named)
    try:
        inner.load_state_dict({**named, **{name: named[other] for name, other in tied.items()}})
    except RuntimeError as exc:
        raise ArtifactError(
            f"the file's weights must fit the model, but: {exported.brief(exc)}"
        ) from exc
    _check_ties(own, named)


def _named_as(own: State, state: State) -> State:
    """The weights without what wrappers put before all of their names, where the model has none."""
    named = dict(state)
    while not named.keys() <= own.keys():
        wrapper = next((w for w in _WRAPPERS if all(name.startswith(w) for name in named)), None)
        if wrapper is None:
            return state  # the names of the file are those to complain of
        named = {name.removeprefix(wrapper): value for name, value in named.items()}
    return named


def _tied(own: State, state: State) -> dict[str, str]:
    """Of weights that the file leaves out, the one that is the very same tensor in the model.

    safetensors' ``save_model`` writes a tensor that has several names once.
    """
    present = {_place(own[name], name): name for name in state if name in own}
    return {
        name: present[_place(tensor, name)]
        for name, tensor in own.items()
        if name not in state and _place(tensor, name) in present
    }


def _check_ties(own: State, state: State) -> None:
    """Raise `ArtifactError` if the file has two values for one tensor: the last would count."""
    first: dict[Any, str] = {}
    for name, value in state.items():
        other = first.setdefault(_place(own[name], name), name)
        if not torch.allclose(value, state[other], rtol=0, atol=0, equal_nan=True):
            raise ArtifactError(
                f"the model has one tensor for {other!r} and {name!r}, but the file has different "
                f"values for them; the function must build the model that was saved"
            )


def _place(tensor: torch.Tensor, name: str) -> Any:
    """Where a tensor's numbers are, equal for two names of one tensor alone; else its name."""
    start = tensor.untyped_storage().data_ptr()
    layout = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    return (tensor.device, start, *layout) if start else name
