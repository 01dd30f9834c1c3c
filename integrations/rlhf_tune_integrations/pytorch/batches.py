"""Batches of torch data whose size can change, at any sample, without losing one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.faults import fault_in

Data = Any
"""A pair of arrays or tensors, a map-style dataset, or a DataLoader."""

_NAMES = ("x", "y", "weights")
_LOADER_OPTIONS = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "generator",
)


@dataclass(frozen=True)
class FeedSnapshot:
    """A place in the data: the order of the epoch in hand, its number, and how much was used."""

    order: tuple[int, ...] | None
    used: int
    size: int
    epoch: int
    generators: tuple[Tensor, ...]


@final
class _Batches:
    """The order of one epoch after the other, cut into batches of a size that can change."""

    def __init__(
        self, sampler: Any, size: int, *, drop_last: bool = False, singles: bool = True
    ) -> None:
        self.sampler, self.size = sampler, size
        self.drop_last, self.singles = drop_last, singles
        self.epoch = int(getattr(sampler, "epoch", 0))  # of a sampler that is told of it
        self.samples = len(sampler)  # asking a dataset takes time
        self.order: tuple[int, ...] | None = None
        self.start = 0

    def __len__(self) -> int:
        if self.drop_last:
            return self.samples // self.size
        spared = not self.singles and self.samples > self.size and self.samples % self.size == 1
        return -(-self.samples // self.size) - spared

    def take(self, used: int) -> int:
        """How many samples the next batch has, once so many were used."""
        left = self.samples - used
        if left == self.size + 1 and not self.singles and not self.drop_last:
            return left
        return min(self.size, left)

    def last_after(self, used: int) -> bool:
        """Whether an epoch has no batch left once so many samples were used."""
        return self.samples - used < (self.size if self.drop_last else 1)

    def __iter__(self) -> Iterator[list[int]]:
        if self.order is None:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(self.epoch)
            self.order = tuple(self.sampler)
        at = self.start
        while not self.last_after(at):
            size = self.take(at)
            yield list(self.order[at : at + size])
            at += size


@final
class Feed:
    """Endless batches of training data; every sample once per epoch, at every batch size.

    Its `rows` are those of the batch that came last, in the data.

    It draws from the random streams exactly as `DataLoader(data, shuffle=True)` does in a loop
    over epochs, and workers stay alive from one epoch to the next.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int | None,
        *,
        seed: int | None,
        dtype: torch.dtype | None = None,
        singles: bool = True,
    ) -> None:
        """Prepare the batches.

        Args:
            data: What to train on; a DataLoader brings its sampler, workers and batch size.
            batch_size: Default: the DataLoader's, else 32.
            seed: Of the order; None draws it from torch's global stream. A DataLoader has its own.
            dtype: Of floats in arrays; default torch's own.
            singles: Whether a last batch may be one sample; else it joins the one before.

        Raises:
            InvalidInputError: If the data has no length, or a DataLoader makes batches in a way
                that cannot be changed.
        """
        options: dict[str, Any] = {}
        if isinstance(data, DataLoader):
            _check_loader(data)
            options = {name: getattr(data, name) for name in _LOADER_OPTIONS}
            dataset, sampler = data.dataset, cast(Any, data.sampler)
            batch_size = data.batch_size if batch_size is None else batch_size
        else:
            dataset = as_dataset(data, dtype)
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            sampler = RandomSampler(cast(Sized, dataset), generator=generator)
            options = {"generator": generator}
        drop_last = isinstance(data, DataLoader) and data.drop_last
        self._batches = _Batches(sampler, 1, drop_last=drop_last, singles=singles)
        if not self._batches.samples:
            raise InvalidInputError("the training data must hold samples, but is empty")
        self._batches.size = self.check(32 if batch_size is None else batch_size)
        self._generators = _generators(options["generator"], getattr(sampler, "generator", None))
        self._generator = options["generator"]
        workers = options.get("num_workers", 0) > 0
        self._was_persistent = workers and data.persistent_workers
        options["persistent_workers"] = workers
        self.dataset = dataset
        self._loader = _loader(dataset, self._batches, options)
        self._iterator: Iterator[Any] | None = None
        self._used = 0
        self.rows: Sequence[int] = ()  # of the last batch, in the data

    def fault(self, batch: Any) -> str | None:
        """What is not finite in the batch that came last, as a sentence with its row."""
        fault = fault_in(named_parts(batch), self.rows)
        return fault and f"train_data holds NaN or infinities, first seen in {fault}"

    @property
    def batch_size(self) -> int:
        """Of the next batch."""
        return self._batches.size

    @batch_size.setter
    def batch_size(self, size: float) -> None:
        self._batches.size = self.check(size)
        self._reopen()

    def check(self, size: float) -> int:
        """A batch size as an integer.

        Raises:
            InvalidInputError: If it is not a whole number of at least 1, or too large to make a
                batch.
        """
        if not (size >= 1 and float(size).is_integer()):
            raise InvalidInputError(f"a batch size must be a whole number >= 1, but got {size}")
        if self._batches.drop_last and size > self._batches.samples:
            raise InvalidInputError(
                f"with drop_last a batch size must be at most the {self._batches.samples} samples, "
                f"but got {size}; there would be no batch"
            )
        return int(size)

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return self._batches.samples

    @property
    def data_samples(self) -> int:
        """Samples of the dataset, of which a sampler may choose some."""
        return len(cast(Sized, self.dataset))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self._batches)

    def next(self) -> tuple[Any, int, bool]:
        """The next batch, its number of samples, and whether it ends an epoch."""
        if self._iterator is None:
            self._iterator = self._open()
        batch = next(self._iterator)
        size = self._batches.take(self._used)
        order = self._batches.order or ()
        self.rows = order[self._used : self._used + size]
        self._used += size
        if not self._batches.last_after(self._used):
            return batch, size, False
        next(self._iterator, None)  # lets it end by itself, as a for loop does
        self._iterator, self._batches.order, self._used = None, None, 0
        self._batches.start = 0
        self._batches.epoch += 1
        return batch, size, True

    def snapshot(self) -> FeedSnapshot:
        """The place in the data."""
        states = tuple(generator.get_state() for generator in self._generators)
        order = self._batches.order if self._used else None
        return FeedSnapshot(order, self._used, self._batches.size, self._batches.epoch, states)

    def restore(self, kept: FeedSnapshot) -> None:
        """Go back to a place."""
        self._batches.order, self._used = kept.order, kept.used
        self._batches.size, self._batches.epoch = kept.size, kept.epoch
        for generator, state in zip(self._generators, kept.generators, strict=True):
            generator.set_state(state)
        self._reopen()

    def _reopen(self) -> None:
        """Forget batches that were fetched ahead, or that an iterator has begun to count."""
        self._iterator, self._batches.start = None, self._used

    def _open(self) -> Iterator[Any]:
        if not self._used:
            if getattr(self._loader, "_iterator", None) and not self._was_persistent:
                # Workers that are started anew for every epoch get a seed each time.
                torch.empty((), dtype=torch.int64).random_(generator=self._generator)
            return iter(self._loader)
        # The epoch had its iterator already: opening another must not draw from the streams.
        states = torch.get_rng_state(), [g.get_state() for g in self._generators]
        iterator = iter(self._loader)
        torch.set_rng_state(states[0])
        for generator, state in zip(self._generators, states[1], strict=True):
            generator.set_state(state)
        return iterator


def as_dataset(data: Data, dtype: torch.dtype | None = None) -> Dataset[Any]:
    """Arrays or tensors as a dataset of pairs; a dataset as it is.

    Args:
        data: A pair (x, y), or a dataset.
        dtype: Of floats in arrays, that of the model; default torch's own. Integer targets become
            long, which losses of classes take; tensors of floats stay as they are.

    Raises:
        InvalidInputError: If it is neither, has no length, or the pair does not fit together.
    """
    if _is_arrays(data):
        return _pairs(data, dtype or torch.get_default_dtype())
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InvalidInputError(
            f"data must be a pair (x, y), a dataset with a length, or a DataLoader over one, "
            f"but got {type(data).__name__}; a stream has no epochs to divide"
        )
    return cast(Dataset[Any], data)


def _is_arrays(data: Data) -> bool:
    """Whether these are arrays side by side, not a list of samples."""
    if isinstance(data, list) and len(data) == 3:  # samples, unless they are arrays
        return all(isinstance(part, Tensor | np.ndarray) for part in data)
    return isinstance(data, tuple) or (isinstance(data, list) and len(data) == 2)


def _pairs(data: Sequence[Any], dtype: torch.dtype) -> TensorDataset:
    if len(data) not in (2, 3):
        raise InvalidInputError(
            f"data must be a pair (x, y) or a triple (x, y, weights), but got {len(data)} arrays"
        )
    tensors = [_tensor(n, part, dtype) for n, part in zip(_NAMES, data, strict=False)]
    if any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise InvalidInputError(f"x and y must have the same length, but have the shapes {shapes}")
    if not len(tensors[0]):
        raise InvalidInputError("data must hold samples, but x and y are empty")
    x, y, *weights = tensors
    y = y if y.is_floating_point() else y.long()
    return TensorDataset(x, y, *(weight.to(dtype) for weight in weights))


def _tensor(name: str, values: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach() if values.requires_grad else values
    array = as_array(f"`{name}`", values)
    if array.dtype.kind == "b" and name == "x":
        return _shared(array).to(dtype)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch can hardly use them
        array = array.astype(np.int64)
    tensor = _shared(array)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _shared(array: NDArray[Any]) -> Tensor:
    """A tensor over the memory of an array, which is only read: a data frame's, a memory map."""
    with warnings.catch_warnings():  # torch warns that such a tensor could be written to
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.as_tensor(array)


def evaluation_loader(
    data: Data, batch_size: int, dtype: torch.dtype | None = None
) -> DataLoader[Any]:
    """Batches of validation data in order; a DataLoader as it is.

    Raises:
        InvalidInputError: If it is no such data, or ends after one pass.
    """
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Iterator):
        raise InvalidInputError(
            f"validation data must give the same batches each time, but a "
            f"{type(data).__name__} ends after one pass; hand over list(...) of its samples"
        )
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=batch_size)
    try:
        dataset = as_dataset(data, dtype)
    except InvalidInputError as exc:
        raise InvalidInputError(f"in the validation data: {exc}") from None
    batches = _Batches(SequentialSampler(cast(Sized, dataset)), batch_size)
    return _loader(dataset, batches, {"generator": torch.Generator()})


def named_parts(batch: Any) -> dict[str, Any]:
    """The floats of a batch as arrays, x and y by name where it is made of these."""
    names = _NAMES if isinstance(batch, list | tuple) and len(batch) <= 3 else ()
    parts = dict(zip(names, batch, strict=False)) if names else {"the batch": batch}
    return {
        name: tensor.detach().double().cpu().numpy()
        for name, part in parts.items()
        for tensor in tensors_in(part)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    }


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors of nested mappings, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors_in(part)


def _loader(dataset: Dataset[Any], batches: _Batches, options: dict[str, Any]) -> DataLoader[Any]:
    custom = options.get("collate_fn") not in (None, torch.utils.data.default_collate)
    if isinstance(dataset, TensorDataset) and not custom:
        # One indexing per batch, where collating would stack single samples.
        options = {**options, "collate_fn": None}
        return DataLoader(dataset, sampler=cast(Any, batches), batch_size=None, **options)
    return DataLoader(dataset, batch_sampler=cast(Any, batches), **options)


def _generators(*candidates: torch.Generator | None) -> Sequence[torch.Generator]:
    return list({id(g): g for g in candidates if g is not None}.values())


def _check_loader(loader: DataLoader[Any]) -> None:
    if loader.batch_size is None:
        raise InvalidInputError(
            "a DataLoader must make its batches by batch_size, but this one has a batch_sampler "
            "or none; hand over the dataset, or a DataLoader with a sampler"
        )
