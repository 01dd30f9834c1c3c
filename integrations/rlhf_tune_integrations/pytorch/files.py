"""Reads PyTorch's model files without unpickling anything but tensors."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from rlhf_tune.errors import ArtifactError
from rlhf_tune.frameworks import WeightsOnly
from rlhf_tune_integrations.pytorch import exported
from rlhf_tune_integrations.pytorch.classify import as_arrays


def load(content: bytes, suffix: str) -> Any:
    """The model of a ``.pt2`` file, or the weights in another; see `Loader.load`."""
    if suffix == ".pt2":
        return exported.load(content)
    state = _safetensors(content) if suffix == ".safetensors" else _state_dict(content)
    arrays = as_arrays(state)
    return WeightsOnly(arrays, lambda model: _assign(model, state))


def _safetensors(content: bytes) -> dict[str, torch.Tensor]:
    try:
        return dict(safetensors.torch.load(content))
    except Exception as exc:
        raise ArtifactError(f"the file must be in the safetensors format, but: {exc}") from exc


def _state_dict(content: bytes) -> Mapping[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ArtifactError(
            "the file must be a state dict of tensors, but its pickle holds more, or is damaged; "
            "pickled models are never loaded: save model.state_dict()"
        ) from exc
    except Exception as exc:
        raise ArtifactError(
            f"the file must be a state dict by torch.save, but is damaged: {exported.brief(exc)}"
        ) from exc
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ArtifactError(
            f"the file must hold a state dict, but holds {type(state).__name__}; "
            f"save model.state_dict()"
        )
    return state


def _assign(model: Any, state: Mapping[str, Any]) -> None:
    if not isinstance(model, torch.nn.Module):
        raise ArtifactError(
            f"the file's weights are for a torch.nn.Module, but got {type(model).__name__}"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as exc:
        raise ArtifactError(
            f"the file's weights must fit the model, but: {exported.brief(exc)}"
        ) from exc
