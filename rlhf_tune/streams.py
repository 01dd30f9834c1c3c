"""The global random streams of a process, kept from what is only measured."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def streams_kept(seed: int | None = None) -> Iterator[None]:
    """Put the streams of Python, NumPy and, where it is loaded, torch back on leaving.

    Args:
        seed: To begin with inside, so that what draws from them repeats itself; None goes on from
            where they are.
    """
    torch: Any = sys.modules.get("torch")  # not loaded for this: then nothing draws from it
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's global stream
    tensors = None if torch is None else _torch_streams(torch)
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            if torch is not None:
                torch.manual_seed(seed)
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        if tensors is not None:
            torch.set_rng_state(tensors[0])
            if tensors[1]:
                torch.cuda.set_rng_state_all(tensors[1])


def _torch_streams(torch: Any) -> tuple[Any, Any]:
    """Of the CPU and, once they are used, of all GPUs."""
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if used else []
