"""The layers of a Keras model, for fine-tuning by group."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import keras
import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.groups import Kind, Unit
from rlhf_tune_integrations.keras.trainer import KerasTrainer
from rlhf_tune_integrations.keras.variables import assign, values

_GRADIENT_SAMPLES = 256


def layers_of(model: keras.Model) -> KerasLayers:
    """The layers of a built model, in the order of `model.layers`.

    Raises:
        InvalidInputError: If it is not built.
    """
    if not model.built:
        raise InvalidInputError(
            "the model must be built, but has no weights yet; give it an Input, or call it once"
        )
    return KerasLayers(model)


@final
class KerasLayers:
    """Layers with variables of their own; see `rlhf_tune.fine_tuning.groups.Layers`."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._held: dict[str, list[keras.Variable]] = {}
        self._layer: dict[str, Any] = {}
        self._programs: dict[frozenset[str], Any] = {}
        self._every = list(_walk(model))
        seen: set[int] = set()
        for layer in self._every:
            for variable in layer._trainable_variables:
                if id(variable) in seen:
                    continue
                seen.add(id(variable))
                name = _named(variable, model, single=layer is model)
                self._held.setdefault(name, []).append(variable)
                self._layer[name] = layer

    @property
    def units(self) -> Sequence[Unit]:
        """See `Layers`."""
        return [
            Unit(
                name,
                sum(math.prod(v.shape) for v in held),
                sum(math.prod(v.shape) for v in self._trained(name)),
                _kind(held, self._layer[name], of_model=self._layer[name] is self._model),
            )
            for name, held in self._held.items()
        ]

    @contextmanager
    def only(self, names: Collection[str]) -> Iterator[None]:
        """See `Layers`; the training step is compiled once for each set of units."""
        key = frozenset(names)
        chosen = {id(v) for name in key for v in self._held[name]}
        kept = [(layer, layer._trainable) for layer in self._every]
        trained = [(v, v.trainable) for layer in self._every for v in layer._trainable_variables]
        before = self._model.train_function
        frozen = self._frozen(key)
        still = {id(layer) for layer in frozen}
        stays = values(v for layer in frozen for v in _own(layer))
        try:
            for layer, was in kept:
                layer._trainable = was and (id(layer) not in still or _has(layer, chosen))
            for variable, was in trained:
                variable.trainable = was and id(variable) in chosen
            if key not in self._programs:
                self._model.make_train_function(force=True)
                self._programs[key] = self._model.train_function
            self._model.train_function = self._programs[key]
            yield
        finally:
            for layer, was in kept:
                layer._trainable = was
            for variable, was in trained:
                variable.trainable = was
            self._model.train_function = before
            assign(stays)

    def weights(self, name: str) -> list[NDArray[np.float32]]:
        """See `Layers`."""
        return [np.array(np.asarray(v), dtype=np.float32) for v in self._trained(name)]

    def assign(self, name: str, weights: Sequence[NDArray[np.floating[Any]]]) -> None:
        """See `Layers`."""
        for variable, value in zip(self._trained(name), weights, strict=True):
            variable.assign(value)

    def gradients(self, trainer: KerasTrainer) -> Mapping[str, float]:
        """See `Layers`; of the mean over up to 256 samples, in evaluation mode."""
        batch = trainer.hyperparameters.get("batch_size") or _GRADIENT_SAMPLES
        batches = trainer._ahead(math.ceil(_GRADIENT_SAMPLES / batch))
        held = [v for name in self._held for v in self._trained(name)]
        if not batches:
            return {}
        sums = [np.zeros(v.shape) for v in held]
        samples = 0
        with trainer.only_looking():
            for x, y, weight in batches:
                size = len(keras.tree.flatten(x)[0])
                samples += size
                for total, found in zip(
                    sums, _gradients(self._model, held, x, y, weight), strict=True
                ):
                    total += size * found
        norms = {id(v): float(np.linalg.norm(g)) / samples for v, g in zip(held, sums, strict=True)}
        return {
            name: math.hypot(*(norms[id(v)] for v in self._trained(name))) for name in self._held
        }

    def _trained(self, name: str) -> list[keras.Variable]:
        layer = self._layer[name]
        return [v for v in self._held[name] if v.trainable and layer.trainable]

    def _frozen(self, names: Collection[str]) -> list[Any]:
        """Layers that stay; one without weights, such as a statistic, goes with those before it."""
        chosen = {id(self._layer[name]) for name in names}
        known = {id(layer) for layer in self._layer.values()}
        owner = id(next(iter(self._layer.values()))) if self._layer else 0
        frozen = []
        for layer in self._every:
            owner = id(layer) if id(layer) in known else owner
            if owner not in chosen:
                frozen.append(layer)
        return frozen


def _walk(layer: Any) -> Iterator[Any]:
    """A layer and those inside it, each before its own, without repeats."""
    seen: set[int] = set()
    left = [layer]
    while left:
        first = left.pop()
        if id(first) not in seen:
            seen.add(id(first))
            yield first
            left += reversed(first._layers)


def _own(layer: Any) -> list[keras.Variable]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _has(layer: Any, chosen: Collection[int]) -> bool:
    """Whether a layer, or one inside it, holds something that was chosen."""
    return any(id(v) in chosen for each in _walk(layer) for v in each._trainable_variables)


def _named(variable: keras.Variable, model: keras.Model, *, single: bool) -> str:
    """The path of a variable's layer within the model; of one of the model itself, its name."""
    path: str = variable.path if single else variable.path.rpartition("/")[0]
    return path.removeprefix(f"{model.name}/")


def _kind(held: Sequence[keras.Variable], layer: Any, *, of_model: bool) -> Kind:
    if all(len(v.shape) <= 1 for v in held):
        return "norm"
    return "embedding" if of_model or isinstance(layer, keras.layers.Embedding) else "layer"


def _gradients(
    model: keras.Model, held: Sequence[keras.Variable], x: Any, y: Any, weight: Any
) -> list[NDArray[Any]]:
    """Of the loss of one batch, in evaluation mode."""

    def loss() -> Any:
        return model.compute_loss(x, y, model(x, training=False), weight, training=False)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, [v.value for v in held], unconnected_gradients="zero")
        return [np.asarray(tf.convert_to_tensor(g)) for g in found]
    import torch

    with torch.enable_grad():
        found = torch.autograd.grad(loss(), [v.value for v in held], allow_unused=True)
    return [
        np.zeros(v.shape) if g is None else g.cpu().numpy()
        for v, g in zip(held, found, strict=True)
    ]
