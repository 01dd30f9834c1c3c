"""Inputs moved against a torch module while it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.attacks import Box
from rlhf_tune.safety.remedy import Batch
from rlhf_tune_integrations.pytorch.modules import evaluating


def worst_outputs(model: torch.nn.Module, batch: Batch, box: Box, *, steps: int) -> Any:
    """Outputs at moved inputs; see `Framework.worst_outputs`.

    The inputs are found in evaluation mode, as the model will be attacked: the statistics of
    BatchNorm would else be those of the attack's own batch, and move with every step of it. They
    are found without autocast, where the gradients of samples that are surely right would vanish.

    Raises:
        InvalidInputError: If the inputs are no tensor of floats: integers have no gradient.
    """
    x = batch.x
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidInputError(
            f"adversarial training needs inputs that are one tensor of floats, but got {kind}; "
            f"convert them before the model, not within it"
        )
    with evaluating(model), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        moved = _moved(model, batch, box, steps)
    return model(moved)


def _moved(model: torch.nn.Module, batch: Batch, box: Box, steps: int) -> Tensor:
    x = batch.x.detach()
    eps, low, high = (torch.as_tensor(part, dtype=x.dtype, device=x.device) for part in _parts(box))
    # What augmentation has put beyond the bounds stays there.
    low, high = (
        torch.minimum(x, (x - eps).clamp(min=low)),
        torch.maximum(x, (x + eps).clamp(max=high)),
    )
    at = torch.clamp(x + eps * (2 * torch.rand_like(x) - 1), low, high)
    stride = eps * box.stride(steps)
    for _ in range(steps):
        at.requires_grad_()
        # The sum, as the gradients of a mean over a large batch may vanish in half precision.
        (gradient,) = torch.autograd.grad(len(x) * batch.loss(model(at)), at)
        at = torch.clamp(at.detach() + stride * gradient.sign(), low, high)
    return at


def _parts(box: Box) -> tuple[Any, Any, Any]:
    return box.eps, *box.bounds
