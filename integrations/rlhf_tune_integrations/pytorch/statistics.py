"""Running statistics of BatchNorm, which lag behind weights that move fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rlhf_tune_integrations.pytorch.modules import evaluating

BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm


def normalising(model: torch.nn.Module) -> Sequence[Any]:
    """The layers whose running statistics training moves; not those frozen in evaluation mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, BATCH_NORM) and module.training and module.running_mean is not None
    ]


@torch.no_grad()
def refresh(
    model: torch.nn.Module,
    layers: Sequence[Any],
    inputs: Iterable[Any],
    forward: Callable[[Any], object] | None = None,
) -> None:
    """Put the mean over batches in place of the running statistics.

    The rest of the model is in evaluation mode, so that nothing is dropped, drawn or augmented.

    Args:
        model: As it is to be served.
        layers: Of it, as `normalising` finds them.
        inputs: Batches of them.
        forward: Calls the model on such a batch; default the model itself.
    """
    with evaluating(model), _averaging(layers):
        for x in inputs:
            (forward or model)(x)
        fresh = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    for layer, (mean, variance) in zip(layers, fresh, strict=True):  # put back by `evaluating`
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


@contextmanager
def _averaging(layers: Sequence[Any]) -> Iterator[None]:
    """The layers learn statistics, as a plain mean since now, in place of a running one."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.momentum = True, None
            layer.reset_running_stats()
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
