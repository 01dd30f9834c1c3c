"""The global random streams of a process, kept from what is only measured."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


def streams() -> dict[str, Any]:
    """Where the streams of Python and NumPy stand and, where it is loaded, those of torch."""
    kept: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - the user's code may draw from it
    }
    if torch := sys.modules.get("torch"):  # else nothing draws from it
        kept["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            kept["cuda"] = torch.cuda.get_rng_state_all()
    return kept


def restore_streams(kept: Mapping[str, Any]) -> None:
    """Put them back to where they stood."""
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])  # noqa: NPY002
    if "torch" in kept:
        sys.modules["torch"].set_rng_state(kept["torch"])
    if "cuda" in kept:
        sys.modules["torch"].cuda.set_rng_state_all(kept["cuda"])


def plain_streams(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Where streams stand, with arrays in the place of tensors."""
    values = dict(kept)
    if "torch" in kept:
        values["torch"] = kept["torch"].numpy().copy()
    if "cuda" in kept:
        values["cuda"] = [each.cpu().numpy().copy() for each in kept["cuda"]]
    return values


def revived_streams(values: Mapping[str, Any]) -> dict[str, Any]:
    """From what `plain_streams` returned; torch is loaded where it was."""
    kept = dict(values)
    if "torch" in values:
        torch = importlib.import_module("torch")
        kept["torch"] = torch.from_numpy(values["torch"].copy())
        if "cuda" in values:
            kept["cuda"] = [torch.from_numpy(each.copy()) for each in values["cuda"]]
    return kept


@contextmanager
def streams_kept(seed: int | None = None) -> Iterator[None]:
    """Put the streams back on leaving.

    Args:
        seed: To begin with inside, so that what draws from them repeats itself; None goes on from
            where they are.
    """
    kept = streams()
    try:
        if seed is not None:
            _seed(seed)
        yield
    finally:
        restore_streams(kept)


def _seed(seed: int) -> None:
    """Not by `torch.manual_seed`: it would seed GPUs that are first used later, too."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
