"""Batches of a torch stream: in its own order, with no place to go back to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

from torch.utils.data import DataLoader, IterableDataset

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.faults import fault_in
from rlhf_tune_integrations.pytorch.batches import FeedSnapshot, named_parts, tensors_in


def is_stream(data: Any) -> bool:
    """Whether data have an order of their own and no index."""
    return isinstance(data.dataset if isinstance(data, DataLoader) else data, IterableDataset)


@final
class StreamFeed:
    """Endless batches of a stream, begun anew where it ends.

    A rollback counts the steps of the epoch from where it goes back to, and goes on with the
    batches that come next. The batch size is the stream's, and does not move.
    """

    def __init__(self, data: Any, batch_size: int | None, steps_per_epoch: int | None) -> None:
        """Prepare the batches.

        Args:
            data: An `IterableDataset` of samples, or a DataLoader over one.
            batch_size: Of a dataset's; default 32.
            steps_per_epoch: The length of an epoch; default that of a stream that tells it.

        Raises:
            InvalidInputError: If the length is not known, or the batch size is the loader's.
        """
        if isinstance(data, DataLoader):
            if batch_size is not None:
                raise InvalidInputError(
                    f"a stream's batch size is its DataLoader's, but got batch_size={batch_size}; "
                    f"leave it out"
                )
            self._loader: DataLoader[Any] = data
        else:
            self._loader = DataLoader(data, batch_size=batch_size or 32)
        if steps_per_epoch is None and not hasattr(self._loader.dataset, "__len__"):
            raise InvalidInputError(
                "a stream must have `steps_per_epoch`, as it does not tell how long an epoch is"
            )
        length = len(self._loader) if steps_per_epoch is None else steps_per_epoch
        if not length >= 1 or int(length) != length:
            raise InvalidInputError(
                f"`steps_per_epoch` must be a whole number >= 1, but got {length}"
            )
        self.steps_per_epoch = int(length)
        self.batch_size: int | None = None
        self.samples: int | None = None  # nobody knows
        self.data_samples: int | None = None
        self.rows: Sequence[int] = ()
        self._iterator: Iterator[Any] | None = None
        self._used = 0

    def check(self, size: float) -> int:
        """Refuse another batch size."""
        raise InvalidInputError(f"the batch size of a stream cannot be set, but got {size}")

    def next(self) -> tuple[Any, int, bool]:
        """The next batch, its number of samples, and whether it ends an epoch."""
        batch = self._read()
        first = next(tensors_in(batch), None)
        self._used = (self._used + 1) % self.steps_per_epoch
        samples = len(first) if first is not None and first.ndim else 1
        return batch, samples, self._used == 0

    def fault(self, batch: Any) -> str | None:
        """What is not finite in a batch, as a sentence."""
        fault = fault_in(named_parts(batch))
        return fault and f"train_data holds NaN or infinities, first seen in {fault} of a batch"

    def snapshot(self) -> FeedSnapshot:
        """How far the epoch is."""
        return FeedSnapshot(None, self._used, 0, 0, ())

    def restore(self, kept: FeedSnapshot) -> None:
        """Count from there; the data go on."""
        self._used = kept.used

    def _read(self) -> Any:
        for _ in range(2):  # the second time from the beginning
            if self._iterator is None:
                self._iterator = iter(self._loader)
            for batch in self._iterator:
                return batch
            self._iterator = None
        raise InvalidInputError(
            "a stream must begin anew where it ends, but gave no batch the second time; let its "
            "__iter__ return a new iterator"
        )
