"""The random streams of the process: those that are no variables of a Keras model."""

from __future__ import annotations

import random
import sys
from typing import Any

import keras
import numpy as np

Streams = dict[str, Any]


def streams() -> Streams:
    """Where the streams of Python, NumPy, torch and TensorFlow stand."""
    kept: Streams = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - the user's code may draw from it
    }
    if torch := sys.modules.get("torch"):
        kept["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            kept["cuda"] = torch.cuda.get_rng_state_all()
    if keras.backend.backend() == "tensorflow":
        kept["seeds"], kept["generator"] = _seeds_of_operations(), _generator_state()
    return kept


def restore_streams(kept: Streams) -> None:
    """Put them back to where they stood."""
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])  # noqa: NPY002
    if "torch" in kept:
        sys.modules["torch"].set_rng_state(kept["torch"])
    if "cuda" in kept:
        sys.modules["torch"].cuda.set_rng_state_all(kept["cuda"])
    if kept.get("seeds") not in (None, _seeds_of_operations()):
        _context()._rng.setstate(kept["seeds"])
        _context().clear_kernel_cache()  # an operation of an equal seed goes on where one ended
    if kept.get("generator") is not None:
        _generator().state.assign(kept["generator"])


def _seeds_of_operations() -> Any:
    """Of the stream from which TensorFlow seeds operations outside of functions, once seeded."""
    stream = getattr(_context(), "_rng", None)
    return None if stream is None else stream.getstate()


def _generator_state() -> Any:
    generator = _generator()
    return None if generator is None else generator.state.read_value()


def _context() -> Any:
    from tensorflow.python.eager import context

    return context.context()


def _generator() -> Any:
    """TensorFlow's global generator; asking for it by its public name would make one."""
    from tensorflow.python.ops import stateful_random_ops

    return stateful_random_ops.global_generator
