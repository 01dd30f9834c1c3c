"""The random streams of the process, those of TensorFlow's operations among them."""

from __future__ import annotations

from typing import Any

import keras

from rlhf_tune import streams as ground

Streams = dict[str, Any]


def streams() -> Streams:
    """Where they stand; those that are variables of a Keras model are not among them."""
    kept = ground.streams()
    if keras.backend.backend() == "tensorflow":
        kept |= {"seeds": _seeds_of_operations(), "generator": _generator_state()}
    return kept


def restore_streams(kept: Streams) -> None:
    """Put them back to where they stood."""
    ground.restore_streams(kept)
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
