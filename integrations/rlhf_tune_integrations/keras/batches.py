"""Batches for a training run on Keras: of arrays in an order of our own, or of data as it comes.

What Keras does not export of its handling of data is imported in this module only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol

import keras
import numpy as np
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune_integrations.keras.intake import ran_out, unknown_length

Batch = Any
Shuffle = bool | Literal["batch"]


@dataclass(frozen=True)
class Place:
    """A place in endless batches.

    Attributes:
        steps: Taken since the beginning of the epoch.
        samples: Taken since the beginning of the epoch; 0 where only steps are counted.
        passes: Finished passes over the data.
        row: Where in the pass the next batch begins.
        batch_size: In effect for the next batch; None where the data brings its own.
        smallest: The smallest batch size of the epoch so far.
    """

    steps: int = 0
    samples: int = 0
    passes: int = 0
    row: int = 0
    batch_size: int | None = None
    smallest: int = 0


class Batches(Protocol):
    """Endless batches, epoch after epoch.

    Attributes:
        place: Where the next batch is taken; may be set to an earlier one.
        seed: Of the order, where it is one of our own.
        identity: Of the data: how many there are in an epoch.
        pairs: Whether a batch is a pair, of which the model knows the first part alone.
        taken: The sizes of the batches that executions took, each once, in their order, where
            `like` can make others of these sizes.
    """

    place: Place
    seed: int | None
    identity: list[int]
    pairs: bool
    taken: list[tuple[int, ...]]

    @property
    def steps_per_epoch(self) -> int:
        """The steps of a whole epoch at the batch size in effect."""
        ...

    def take(self, most: int) -> tuple[Any, int]:
        """What one execution of a training step takes, and its number of steps.

        Args:
            most: Steps that it may take; they do not go beyond the epoch.
        """
        ...

    def like(self, sizes: tuple[int, ...]) -> Any:
        """What an execution takes, of batches of these sizes, without moving on."""
        ...

    def build(self, model: keras.Model) -> None:
        """Build what of a model, its metrics and its optimizer is not built, without moving on."""
        ...

    def end_epoch(self) -> None:
        """To be called after the last step of an epoch."""
        ...

    def close(self) -> None:
        """End what works in the background."""
        ...


class ArrayBatches:
    """Batches of arrays; every sample comes once in each pass, whatever the batch sizes.

    The order of a pass is a function of the seed and the number of the pass, so a place is all
    there is to keep.

    Args:
        arrays: A structure of arrays that share their first axis.
        batch_size: Of the first batches.
        shuffle: Whether the order of a pass is random.
        seed: Of the orders.
        steps_per_epoch: The length of an epoch at the first batch size; None for one pass.
        pairs: Whether `arrays` is a pair, of which the model knows the first part alone.
    """

    def __init__(
        self,
        arrays: Any,
        batch_size: int,
        *,
        shuffle: Shuffle,
        seed: int,
        steps_per_epoch: int | None = None,
        pairs: bool = False,
    ) -> None:
        self.pairs = pairs
        self._arrays = array_slicing.convert_to_sliceable(arrays, target_backend="numpy")
        self._shuffle = shuffle is True
        self.seed: int | None = seed
        self.samples = len_of(arrays)
        self._epoch = steps_per_epoch * batch_size if steps_per_epoch else self.samples
        self.identity = [self.samples, self._epoch, int(self._shuffle)]
        self.taken: list[tuple[int, ...]] = []
        self._drawn: tuple[tuple[int, int], NDArray[np.int64]] = ((0, -1), np.empty(0, np.int64))
        self.place = Place(batch_size=batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of a whole epoch at the batch size in effect."""
        assert self.place.batch_size is not None  # noqa: S101 - set in the constructor
        return math.ceil(self._epoch / self.place.batch_size)

    def build(self, model: keras.Model) -> None:
        """By the first batch in the order of the arrays."""
        batch = self._slice(slice(0, self.place.batch_size))
        model._symbolic_build(data_batch=batch[0] if self.pairs else batch)

    def take(self, most: int) -> tuple[list[Batch], int]:
        """The next batches."""
        batches, count = _several(self, most)
        sizes = tuple(len_of(batch) for batch in batches)
        if sizes not in self.taken:
            self.taken.append(sizes)
        return batches, count

    def like(self, sizes: tuple[int, ...]) -> list[Batch]:
        """The first rows, as often as asked."""
        return [self._slice(slice(0, size)) for size in sizes]

    def end_epoch(self) -> None:
        """Nothing is left to do."""

    def _next(self) -> Batch:
        size, start = self._next_size(), self.place.row
        rows = slice(start, start + size)
        batch = self._slice(self._order()[rows] if self._shuffle else rows)
        self._advance(size)
        return batch

    def close(self) -> None:
        """Nothing works in the background."""

    def _next_size(self) -> int:
        """The batch size, or at the end of a pass what is left.

        After a change of the batch size within an epoch what is left is cut into the smallest size
        used, so that few shapes are ever compiled.
        """
        at, size = self.place, self.place.batch_size or 1
        left = min(self.samples - at.row, self._epoch - at.samples)
        smallest = min(size, at.smallest or size)
        return size if left >= size else min(left, smallest)

    def _advance(self, size: int) -> None:
        at = self.place
        now = at.batch_size or 1
        at = replace(
            at,
            steps=at.steps + 1,
            samples=at.samples + size,
            row=at.row + size,
            smallest=min(now, at.smallest or now),
        )
        if at.row == self.samples:
            at = replace(at, passes=at.passes + 1, row=0)
        if at.samples == self._epoch:
            at = replace(at, steps=0, samples=0, smallest=0)
        self.place = at

    def _order(self) -> NDArray[np.int64]:
        of = self.seed or 0, self.place.passes
        if self._drawn[0] != of:
            self._drawn = of, np.random.default_rng(of).permutation(self.samples)
        return self._drawn[1]

    def _slice(self, rows: slice | NDArray[np.int64]) -> Batch:
        batch = keras.tree.map_structure(
            lambda array: None if array is None else array.convert_to_numpy(array[rows]),
            self._arrays,
            none_is_leaf=False,
        )
        return _as_tensors(batch)


class StreamBatches:
    """Batches of a tf.data pipeline, a PyDataset, a DataLoader or a generator, as they come.

    The order and the batch size are the data's own. Going back to an earlier place counts the
    steps of the epoch from there, and goes on with the batches that come next.

    Args:
        adapter: Keras' adapter of the data.
        steps_per_epoch: The length of an epoch; None for one pass.
        paired: Makes a pair of a batch, of which the model knows the first part alone.

    Raises:
        InvalidInputError: If the length of an epoch is not known.
    """

    def __init__(
        self,
        adapter: Any,
        steps_per_epoch: int | None = None,
        paired: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self._paired, self.pairs = paired, paired is not None
        if not (steps_per_epoch or adapter.num_batches):
            raise unknown_length()
        self.steps_per_epoch = int(steps_per_epoch or adapter.num_batches)
        self.seed: int | None = None
        self.identity = [self.steps_per_epoch]
        self.taken: list[tuple[int, ...]] = []
        self._one_pass_per_epoch = not steps_per_epoch
        self._once, self._begun = isinstance(adapter, GeneratorDataAdapter), False
        self._source = Source(adapter)
        self._passing: Iterator[Batch] | None = None
        self._peeked: list[Batch] = []
        self.place = Place()

    def build(self, model: keras.Model) -> None:
        """By the next batch, which is kept for the next step."""
        self._peeked = [self._read()]
        batch = self._peeked[0]
        model._symbolic_build(data_batch=batch[0] if self.pairs else batch)

    def take(self, most: int) -> tuple[list[Batch], int]:
        """The next batches."""
        return _several(self, most)

    def like(self, sizes: tuple[int, ...]) -> None:
        """Nobody knows other batches of these data."""

    def end_epoch(self) -> None:
        """Nothing is left to do."""

    def _next(self) -> Batch:
        batch = self._peeked.pop() if self._peeked else self._read()
        steps = (self.place.steps + 1) % self.steps_per_epoch
        self.place = Place(steps=steps)
        if steps == 0 and self._one_pass_per_epoch:
            self.close()
        return batch

    def close(self) -> None:
        """End the pass, and the workers of the data with it."""
        if self._passing is not None:
            self._passing.close()  # type: ignore[attr-defined]
            self._passing = None

    def _read(self) -> Batch:
        for _ in range(2):  # the second time from the beginning
            if self._passing is None:
                self._passing = self._source.batches()
            for batch in self._passing:
                self._begun = True
                return self._paired(batch) if self._paired else batch
            self._passing = None
            if self._once and self._begun:
                raise ran_out()
        raise InvalidInputError("the data must give at least one batch, but it gave none")


class Source:
    """Passes over data of any kind that Keras takes, in its own order."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._dataset: Any = None

    def batches(self, steps: int | None = None) -> Iterator[Batch]:
        """One pass, or its first steps."""
        self._adapter.on_epoch_begin()
        try:
            yield from islice(self._iterator(), steps)
        finally:
            self._adapter.on_epoch_end()

    def _iterator(self) -> Iterator[Batch]:
        if isinstance(self._adapter, ArrayDataAdapter):
            return map(_as_tensors, self._adapter.get_numpy_iterator())
        if keras.backend.backend() == "torch":
            return iter(self._adapter.get_torch_dataloader())
        if self._dataset is None:
            self._dataset = self._adapter.get_tf_dataset()
        return iter(self._dataset)


def training_batches(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    class_weight: dict[int, float] | None = None,
    shuffle: Shuffle = True,
    steps_per_epoch: int | None = None,
    beside: Any = None,
    seed: int = 0,
) -> Batches:
    """Batches of whatever `model.fit` takes, with its arguments.

    With `beside` they are pairs: it is a structure of arrays, or for streams a function that makes
    a pair of a batch.

    Raises:
        InvalidInputError: If the length of an epoch is not known.
        ValueError: Keras' own, for data it does not take.
    """
    adapter = data_adapters.get_data_adapter(
        x,
        y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        # Keras warns about True where the order is the data's; it is also the default of fit.
        shuffle=shuffle if isinstance(x, keras.utils.PyDataset) else False,
        class_weight=class_weight,
    )
    if isinstance(adapter, ArrayDataAdapter):
        return ArrayBatches(
            adapter._inputs if beside is None else (adapter._inputs, beside),
            adapter.batch_size,
            shuffle=shuffle,
            seed=seed,
            steps_per_epoch=steps_per_epoch,
            pairs=beside is not None,
        )
    return StreamBatches(adapter, steps_per_epoch, beside)


def validation_source(data: Any, batch_size: int | None, steps: int | None) -> Source:
    """Passes over validation data as `model.fit` takes it."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return Source(
        data_adapters.get_data_adapter(
            x, y, sample_weight=sample_weight, batch_size=batch_size, steps_per_epoch=steps
        )
    )


def repeatable(data: Any, steps: int | None) -> Any:
    """Validation data that give the same samples in each pass; a generator is read into memory.

    Raises:
        InvalidInputError: If a pass might never end, or there is nothing in it.
    """
    if isinstance(data, Iterator):
        if steps is None:
            raise InvalidInputError(
                "validation data that come from a generator must have `validation_steps`: so many "
                "batches are read once, so that all states are compared on the same samples"
            )
        read = list(islice(data, steps))
        if not read:
            raise InvalidInputError("the validation data must hold samples, but they hold none")
        adapter = GeneratorDataAdapter(batch for batch in read)
        adapter.generator = lambda: iter(read)  # from the first one in each pass
        return adapter
    if steps is None and _is_endless(data):
        raise InvalidInputError(
            "validation data without an end must have `validation_steps`, but it is None"
        )
    return data


def _is_endless(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return data_adapters.is_tf_dataset(data) and int(data.cardinality()) == -1  # tf's INFINITE


def split(x: Any, y: Any, sample_weight: Any, fraction: float) -> tuple[Any, Any]:
    """Training and validation data, each (x, y, sample_weight), as `validation_split` cuts them."""
    parts: tuple[Any, Any] = array_slicing.train_validation_split(
        (x, y, sample_weight), validation_split=fraction
    )
    return parts


def is_arrays(x: Any, y: Any) -> bool:
    """Whether data are arrays, whose order is not their own."""
    return bool(array_data_adapter.can_convert_arrays((x, y)))


def kept(arrays: Any, fraction: float) -> Any:
    """Of a structure of arrays, what `validation_split` leaves to train on."""
    return array_slicing.train_validation_split(arrays, validation_split=fraction)[0]


def size_of_batches(x: Any, y: Any, batch_size: int | None, steps: int | None) -> int | None:
    """The batch size that `model.fit` gives to arrays; None for data that brings its own."""
    if not is_arrays(x, y):
        return None
    return int(ArrayDataAdapter(x, y, batch_size=batch_size, steps=steps).batch_size)


def len_of(arrays: Any) -> int:
    """The number of samples in a structure of arrays."""
    return int(next(a.shape[0] for a in keras.tree.flatten(arrays) if a is not None))


def _as_tensors(batch: Batch) -> Batch:
    """As the backend's own iterators give it: a training step of the user's may rely on it."""

    def tensor(array: Any) -> Any:
        kinds = "biufcO" if keras.backend.backend() == "tensorflow" else "biufc"  # O: of text
        known = isinstance(array, np.ndarray) and array.dtype.kind in kinds
        return keras.ops.convert_to_tensor(array) if known else array

    return keras.tree.map_structure(tensor, batch)


def _several(data: ArrayBatches | StreamBatches, most: int) -> tuple[list[Batch], int]:
    """The next batches, to the end of the epoch at most."""
    batches = [data._next()]
    while len(batches) < most and data.place.steps:
        batches.append(data._next())
    return batches, len(batches)
