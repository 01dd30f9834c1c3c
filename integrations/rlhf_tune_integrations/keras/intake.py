"""What is said of data before a run begins, where Keras would say it late, unclearly or never."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.faults import fault_in


def check_data(model: keras.Model, x: Any, y: Any, validation_data: Any) -> str | None:
    """Refuse what cannot be trained or validated on; warn of arrays that are not finite.

    A model may be made for missing values, so these are no error. Data of kinds other than arrays
    are left to Keras, and so are lengths, shapes and dtypes. Returns what was warned of in `x` and
    `y`.

    Raises:
        InvalidInputError: If there is no data, no sample, no target for a loss, or text in arrays
            of NumPy's own kind.
    """
    if x is None:
        raise InvalidInputError("`x` must be given, but it is None")
    for name, data in (("x", x), ("y", y), ("validation_data", validation_data)):
        for array in _arrays(data):
            if array.shape and array.shape[0] == 0:
                raise InvalidInputError(f"`{name}` must hold samples, but it holds none")
            if isinstance(array, np.ndarray) and array.dtype.kind in "US":
                raise InvalidInputError(
                    f"`{name}` must hold numbers, or text that the model takes as tensors, but "
                    f"holds NumPy text ({array.dtype}); encode labels as numbers, and hand over "
                    f"text as tf.constant(...)"
                )
    plain = type(model).compute_loss is keras.Model.compute_loss
    own_step = type(model).train_step is not keras.Model.train_step
    if y is None and model.loss is not None and plain and not own_step and _arrays(x):
        raise InvalidInputError(
            "`y` must be given, as the model was compiled with a loss, but it is None"
        )
    for fault in faults_in(x=x, y=y, validation_data=validation_data):
        warnings.warn(
            f"{fault}; unless the model is made for them, weights and metrics will not be finite",
            stacklevel=2,
        )
    return "; ".join(faults_in(x=x, y=y)) or None


def faults_in(**data: Any) -> list[str]:
    """What is not finite in arrays, by name: a sentence each."""
    return [fault for name, part in data.items() if (fault := _fault(name, part))]


def fault_of_batch(batch: Any, first: int = 0) -> str | None:
    """What is not finite in a batch of tensors, as "x of row 5".

    Args:
        batch: As the data give it.
        first: The number of its first row.
    """
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    for name, part in zip(("x", "y", "sample_weight"), parts, strict=False):
        for tensor in keras.tree.flatten(part):
            if tensor is None or not keras.backend.is_float_dtype(
                keras.backend.standardize_dtype(tensor.dtype)
            ):
                continue
            array = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
            if fault := fault_in({name: array}, range(first, first + array.shape[0])):
                return fault
    return None


def fault_in_batches(batches: list[Any]) -> str | None:
    """Where in training batches a value is not finite, as a sentence; None where all are."""
    for batch in batches:
        if fault := fault_of_batch(batch):
            return (
                f"the training data holds values that are not finite, first seen in {fault} of a "
                f"batch"
            )
    return None


def unknown_length() -> InvalidInputError:
    """What is said of data that do not tell how long an epoch is."""
    return InvalidInputError(
        "the length of an epoch must be known, but this data does not tell it; pass steps_per_epoch"
    )


def ran_out() -> InvalidInputError:
    """What is said of data that end within an epoch."""
    return InvalidInputError(
        "the data must last for steps_per_epoch batches in each epoch of the budget, "
        "but they ended before; let them repeat, or lower `epochs` or `steps_per_epoch`"
    )


def check_batch_size(model: keras.Model, value: float, first: int) -> None:
    """Refuse a batch size to which a model that began with the size `first` cannot go."""
    if not (value >= 1 and float(value).is_integer()):
        raise InvalidInputError(f"`batch_size` must be a whole number >= 1, but got {value}")
    if model.jit_compile and not math.log2(value / first).is_integer():
        raise InvalidInputError(
            f"with jit_compile `batch_size` must be {first} times a power of two, as each size is "
            f"compiled, but got {value}"
        )


def check_size(name: str, value: Any) -> None:
    """Refuse what is no whole number; None and 0 are Keras' default."""
    if value is not None and not (isinstance(value, int | np.integer) and value >= 0):
        raise InvalidInputError(f"`{name}` must be a whole number >= 1, but got {value!r}")


def _arrays(data: Any) -> list[Any]:
    if data is None or not can_convert_arrays(data):
        return []
    return [array for array in keras.tree.flatten(data) if hasattr(array, "shape")]


def _fault(name: str, data: Any) -> str | None:
    for array in _arrays(data):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            continue
        if np.isfinite(array.sum(dtype=np.float64)):  # the usual case, in little memory
            continue
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            return f"`{name}` holds values that are not finite, first in row {finite.argmin()}"
    return None
