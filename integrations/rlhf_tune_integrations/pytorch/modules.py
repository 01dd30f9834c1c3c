"""What is asked of any torch module: to be left as it was, and which floats it is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from rlhf_tune.errors import InvalidInputError

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode; on leaving, the mode of each module and all buffers are as before.

    Modes are set by attribute: `train` and `eval` may be overridden, or refuse. Frozen TorchScript
    has none.
    """
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, value in buffers:
            if not (module._buffers[name] is buffer and torch.equal(buffer, value)):
                buffer.data = value  # no new version of it, should a backward pass be under way
                module._buffers[name] = buffer


def dtype_of(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """The floats that most of the numbers are of; torch's default where there are none."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.dtype in _FLOATS:
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.get_default_dtype()


def all_finite(model: torch.nn.Module) -> bool:
    """Whether all weights are."""
    weights = (p for p in model.parameters() if p.is_floating_point())
    return all(bool(torch.isfinite(weight).all()) for weight in weights)


def check_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that would train nothing of the model, and a model of many processes.

    Raises:
        InvalidInputError: If it holds no parameter of it that takes a gradient, or weights have no
            values.
    """
    check_single(model)
    check_weights(model)
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if stepped.isdisjoint({id(p) for p in model.parameters() if p.requires_grad}):
        raise InvalidInputError(
            "the optimizer must hold parameters of the model that are trained, but holds none of "
            "them; make it of model.parameters(), after the model has its final form"
        )


def check_weights(model: torch.nn.Module) -> None:
    """Raise `InvalidInputError` for weights that have no values yet."""
    for name, weight in model.named_parameters():
        if isinstance(weight, torch.nn.parameter.UninitializedParameter):
            raise InvalidInputError(
                f"the model's weights must exist before training, but {name!r} is that of a lazy "
                f"module that has seen no data; call the model once, as model(x[:1])"
            )
        if weight.is_meta:
            raise InvalidInputError(
                f"the model's weights must have values, but {name!r} is on the meta device; say "
                f"model.to_empty(device=...) and load a state dict"
            )


def check_single(model: torch.nn.Module) -> None:
    """Raise `InvalidInputError` for a model that trains in step with other processes."""
    wrapper = type(model).__name__
    if wrapper in ("DistributedDataParallel", "FullyShardedDataParallel"):
        raise InvalidInputError(
            f"a run must train in one process, but the model is a {wrapper}: each process would "
            f"decide and roll back by itself; hand over the module inside, or several runs"
        )
