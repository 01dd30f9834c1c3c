"""What is asked of any torch module: to be left as it was, and which floats it is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

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
