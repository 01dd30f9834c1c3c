"""Data as Keras' own loops take it: in their order, and with what they draw from random streams.

A policy that never goes back to train on, "constant", is driven by these, so that its run is
`model.fit`, bit for bit. What Keras does not export of its loops is imported in this module only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.epoch_iterator import EpochIterator

from rlhf_tune_integrations.keras.batches import Batches, Place, training_batches
from rlhf_tune_integrations.keras.intake import ran_out, unknown_length


def passes(model: keras.Model, x: Any, y: Any, sample_weight: Any, **arguments: Any) -> Any:
    """Keras' iterator over epochs of data, for the model's backend."""
    data = {"x": x, "y": y, "sample_weight": sample_weight, **arguments}
    data["steps_per_execution"] = model.steps_per_execution
    if keras.backend.backend() == "torch":
        from keras.src.backend.torch.trainer import TorchEpochIterator

        return TorchEpochIterator(**data)
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    return TFEpochIterator(distribute_strategy=model.distribute_strategy, **data)


class LoopBatches:
    """Batches by Keras' own iterator; a place only counts, there is no going back in the data.

    Raises:
        InvalidInputError: If the length of an epoch is not known.
    """

    def __init__(self, iterator: EpochIterator) -> None:
        if not iterator.num_batches:
            raise unknown_length()
        self._iterator = iterator
        self.steps_per_epoch = int(iterator.num_batches)
        self.seed: int | None = None
        self.identity = [self.steps_per_epoch]
        self.taken: list[tuple[int, ...]] = []
        self.pairs = False
        self._within = False
        adapter = iterator.data_adapter
        arrays = isinstance(adapter, ArrayDataAdapter)
        self.place = Place(batch_size=adapter.batch_size if arrays else None)

    def build(self, model: keras.Model) -> None:
        """As the loop does: on the torch backend by a first batch, which counts as drawn."""
        if keras.backend.backend() == "torch":
            model._symbolic_build(iterator=self._iterator)
        else:
            model._symbolic_build(data_batch=self._iterator._distributed_dataset.element_spec)
        self._iterator.reset()

    def take(self, most: int) -> tuple[Any, int]:
        """The steps of one execution, as many as Keras takes."""
        if not self._within:
            iter(self._iterator)
            self._within = True
        with lasting():
            first, last, data = next(self._iterator)
        left = self.steps_per_epoch - self.place.steps
        count = min(last - first + 1, left)
        self.place = replace(self.place, steps=0 if count == left else self.place.steps + count)
        return data, count

    def like(self, sizes: tuple[int, ...]) -> None:
        """Nobody knows other batches of these data."""

    def end_epoch(self) -> None:
        """What the loop does after the last step."""
        self._within = False
        next(self._iterator, None)

    def close(self) -> None:
        """End a pass, and the workers of the data with it."""
        if self._within:
            self._iterator.reset()


def loop_batches(
    model: keras.Model, x: Any, y: Any, sample_weight: Any, *, shuffle: Any, **arguments: Any
) -> LoopBatches | None:
    """Training data in Keras' loop; None where that would cut epochs short."""
    mixes = isinstance(x, keras.utils.PyDataset) or can_convert_arrays((x, y, sample_weight))
    iterator = passes(model, x, y, sample_weight, shuffle=shuffle if mixes else False, **arguments)
    steps, whole = iterator.steps_per_epoch, iterator.data_adapter.num_batches
    return None if steps and whole and whole % steps else LoopBatches(iterator)


def training_data(
    model: keras.Model,
    x: Any,
    y: Any,
    sample_weight: Any,
    keras_loop: bool,
    *,
    beside: Any,
    seed: int,
    **arguments: Any,
) -> Batches:
    """Training data in Keras' loop where that is asked for and can be, else in an order of ours.

    Keras' loop knows nothing of what comes `beside` the batches.
    """
    if keras_loop and beside is None:
        own = loop_batches(model, x, y, sample_weight, **arguments)
        if own is not None:
            return own
    return training_batches(x, y, sample_weight, beside=beside, seed=seed, **arguments)


@contextmanager
def lasting() -> Iterator[None]:
    """Say it where data end before their time; TensorFlow has an error of its own for that."""
    try:
        yield
    except StopIteration as exc:
        raise ran_out() from exc
    except Exception as exc:
        if type(exc).__name__ != "OutOfRangeError":
            raise
        raise ran_out() from exc
