"""What a Keras model holds besides its layers: values, seeds, modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.random.seed_generator import global_seed_generator

from rlhf_tune_integrations.keras.streams import restore_streams, streams


def values(variables: Iterable[keras.Variable]) -> tuple[tuple[keras.Variable, Any], ...]:
    """Variables with copies of what they hold."""
    return tuple((variable, keras.ops.copy(variable.value)) for variable in variables)


def assign(kept: tuple[tuple[keras.Variable, Any], ...]) -> None:
    """Put back what variables held."""
    for variable, value in kept:
        variable.assign(value)


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Of the model, its metrics and its optimizer; those of layers that go on between batches."""
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    for layer in model._flatten_layers():  # recurrent ones
        states = keras.tree.flatten(getattr(layer, "states", None))
        variables += [state for state in states if isinstance(state, keras.Variable)]
    return variables


def own_step(model: keras.Model) -> bool:
    """Whether the user wrote the training step, and so decides what the model is called on."""
    return type(model).train_step is not keras.Model.train_step


def global_seeds() -> Any:
    """Keras' seed generator for layers without one of their own; made, it leaves no trace."""
    stood = streams()
    made = global_seed_generator()
    restore_streams(stood)
    return made


def all_finite(model: keras.Model) -> bool:
    """Whether all weights that are trained are."""
    finite = [keras.ops.all(keras.ops.isfinite(w)) for w in model.trainable_variables]
    return not finite or bool(keras.ops.all(keras.ops.stack(finite)))


def modes(model: keras.Model) -> list[tuple[Any, bool]]:
    """Whether each layer of torch trains; none on other backends."""
    if keras.backend.backend() != "torch":
        return []
    return [(layer, layer.training) for layer in model.modules()]


@contextmanager
def train_mode(model: keras.Model) -> Iterator[None]:
    """On the torch backend layers of torch have a mode, which `fit` sets the same way."""
    if keras.backend.backend() == "torch":
        model.train()
    try:
        yield
    finally:
        if keras.backend.backend() == "torch":
            model.eval()
