"""The layers of a torch module, for fine-tuning by group."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_tune.fine_tuning.groups import Kind, Unit
from rlhf_tune_integrations.pytorch.scoring import loss_of, parts, samples_in
from rlhf_tune_integrations.pytorch.trainer import TorchTrainer

_LISTS = (torch.nn.ParameterList, torch.nn.ParameterDict)
_STATISTICS = (torch.nn.modules.batchnorm._NormBase,)
_GRADIENT_SAMPLES = 256


def layers_of(model: torch.nn.Module) -> TorchLayers:
    """The layers of a module, from the first that it registers to the last."""
    return TorchLayers(model)


@final
class TorchLayers:
    """Modules with parameters of their own; see `rlhf_tune.fine_tuning.groups.Layers`.

    Parameters of the model itself, and those in lists of parameters, are units each.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._held: dict[str, list[torch.nn.Parameter]] = {}
        self._modules: dict[str, torch.nn.Module] = {}
        seen: set[int] = set()
        for path, module in model.named_modules():
            single = module is model or isinstance(module, _LISTS)
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                unit = ".".join(filter(None, (path, name if single else "")))
                self._held.setdefault(unit, []).append(parameter)
                self._modules[unit] = module

    @property
    def units(self) -> Sequence[Unit]:
        """See `Layers`."""
        return [
            Unit(
                name,
                sum(p.numel() for p in held),
                sum(p.numel() for p in held if p.requires_grad),
                _kind(held, self._modules[name], self._model),
            )
            for name, held in self._held.items()
        ]

    @contextmanager
    def only(self, names: Collection[str]) -> Iterator[None]:
        """See `Layers`; frozen normalisation uses its running statistics."""
        chosen = {id(p) for name in names for p in self._held[name]}
        kept = [(p, p.requires_grad, p.grad) for p in self._model.parameters()]
        modes = [(module, module.training) for module in self._model.modules()]
        if not any(mode for _, mode in modes):
            self._model.train()
        frozen = self._frozen(names)
        buffers = [(b, b.clone()) for m in frozen for b in m.buffers(recurse=False)]
        try:
            for parameter, _, _ in kept:
                if id(parameter) not in chosen:
                    parameter.requires_grad_(False)
                    parameter.grad = None
            for module in frozen:
                if isinstance(module, _STATISTICS):
                    module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, needed, gradient in kept:
                parameter.requires_grad_(needed)
                if id(parameter) not in chosen:
                    parameter.grad = gradient
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

    def weights(self, name: str) -> list[NDArray[np.float32]]:
        """See `Layers`."""
        return [p.detach().cpu().float().numpy().copy() for p in self._trained(name)]

    @torch.no_grad()
    def assign(self, name: str, weights: Sequence[NDArray[np.floating[Any]]]) -> None:
        """See `Layers`."""
        for parameter, value in zip(self._trained(name), weights, strict=True):
            parameter.copy_(torch.as_tensor(np.asarray(value)))

    def gradients(self, trainer: TorchTrainer) -> Mapping[str, float]:
        """See `Layers`; of the mean over up to 256 samples, in evaluation mode."""
        batch = trainer.hyperparameters.get("batch_size") or _GRADIENT_SAMPLES
        batches = trainer._ahead(math.ceil(_GRADIENT_SAMPLES / batch))
        held = [p for name in self._held for p in self._trained(name)]
        sums: list[Tensor] = []
        samples = 0
        with trainer.only_looking():
            for x, y, weights in map(parts, batches):
                size = samples_in(y)
                loss = size * loss_of(trainer._loss_fn, self._model(x), y, weights)
                samples += size
                found = torch.autograd.grad(loss, held, allow_unused=True)
                whole = [
                    torch.zeros_like(p) if g is None else g
                    for p, g in zip(held, found, strict=True)
                ]
                sums = [a + b for a, b in zip(sums, whole, strict=True)] if sums else whole
        if not sums:
            return {}
        norms = {id(p): float(g.norm()) / samples for p, g in zip(held, sums, strict=True)}
        return {
            name: math.hypot(*(norms[id(p)] for p in self._trained(name))) for name in self._held
        }

    def _trained(self, name: str) -> list[torch.nn.Parameter]:
        return [p for p in self._held[name] if p.requires_grad]

    def _frozen(self, names: Collection[str]) -> list[torch.nn.Module]:
        """Modules whose buffers are to stay; one without parameters goes with those before it."""
        chosen = {id(self._modules[name]) for name in names}
        known = {id(module) for module in self._modules.values()}
        owner = id(next(iter(self._modules.values()))) if self._modules else 0
        frozen = []
        for module in self._model.modules():
            owner = id(module) if id(module) in known else owner
            if owner not in chosen:
                frozen.append(module)
        return frozen


def _kind(held: Sequence[Tensor], module: torch.nn.Module, model: torch.nn.Module) -> Kind:
    if all(p.ndim <= 1 for p in held):
        return "norm"
    first = module is model or isinstance(module, (torch.nn.Embedding, *_LISTS))
    return "embedding" if first else "layer"
