"""Keras models as classifiers to be measured, on the TensorFlow and the torch backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import UnsupportedModelError
from rlhf_tune.frameworks import Classifier
from rlhf_tune.streams import streams_kept
from rlhf_tune_integrations.keras.fixed import any_size
from rlhf_tune_integrations.keras.logits import is_symbolic, whole_of, without_link

_REGRESSION = {
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.huber,
    keras.losses.log_cosh,
    keras.losses.poisson,
}


@contextmanager
def classifier(model: keras.Model) -> Iterator[Classifier]:
    """Lend a Keras model to a measurement; on leaving, its variables are as before.

    Raises:
        UnsupportedModelError: If it is not built, has several inputs or outputs, takes integers,
            was compiled for regression, or runs on another backend.
    """
    _check(model)
    with _state_kept(model):
        backend = keras.backend.backend()
        if backend == "tensorflow":
            from rlhf_tune_integrations.keras.tensorflow import classifier_of

            with streams_kept(seed=0):
                yield any_size(classifier_of(model), model)
        elif backend == "torch":
            from rlhf_tune_integrations.pytorch.classify import TorchClassifier, borrowed

            body, link = without_link(model)
            with borrowed(model):
                whole = TorchClassifier(model, whole_of(model), link)
                stripped = None if body is None else TorchClassifier(model, body, "logit", whole)
                yield any_size(stripped or whole, model)
        else:
            raise UnsupportedModelError(
                f"the Keras backend must be 'tensorflow' or 'torch', but is {backend!r}"
            )


def weights(model: keras.Model) -> dict[str, NDArray[Any]]:
    """The weights by their place in the model; see `Framework.weights`.

    Keras numbers the layers of a process, so their names are left out.
    """
    return {
        f"{place:05d}/{weight.name}": _exact(np.asarray(weight))
        for place, weight in enumerate(model.weights)
    }


def _exact(value: NDArray[Any]) -> NDArray[Any]:
    """Numbers that NumPy has no type for, bfloat16 and float8, widened without loss."""
    return value if value.dtype.kind in "biufc" else value.astype(np.float32)


@contextmanager
def _state_kept(model: keras.Model) -> Iterator[None]:
    """Put back statistics and seed generators that a forward pass has moved."""
    trained = {id(variable) for variable in model.trainable_variables}
    states = [getattr(layer, "states", None) for layer in model._flatten_layers()]
    others = [*model.variables, *(v for v in keras.tree.flatten(states) if v is not None)]
    kept = [(v, keras.ops.copy(v.value)) for v in others if id(v) not in trained]
    try:
        yield
    finally:
        for variable, value in kept:
            if keras.ops.any(keras.ops.not_equal(variable.value, value)):
                variable.assign(value)


def _check(model: keras.Model) -> None:
    if not model.built:
        raise UnsupportedModelError(
            "the model must be built before it is measured; call model.build() or fit it first"
        )
    loss = getattr(model, "loss", None)
    if isinstance(loss, str | keras.Loss) or callable(loss):
        function = getattr(keras.losses.get(loss), "fn", keras.losses.get(loss))
        if function in _REGRESSION:
            raise UnsupportedModelError(
                f"the model must be a classifier, but it was compiled with the regression "
                f"loss {function.__name__!r}"
            )
    if not is_symbolic(model):
        return
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UnsupportedModelError(
            f"the model must have one input and one output, "
            f"but has {len(model.inputs)} and {len(model.outputs)}"
        )
    if not keras.backend.is_float_dtype(model.inputs[0].dtype):
        raise UnsupportedModelError(
            f"the inputs must be numbers that can change a little, but this model takes "
            f"{model.inputs[0].dtype}: tokens cannot be measured"
        )
