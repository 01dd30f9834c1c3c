"""Runs that are broken off after so many writes of their checkpoint, as a kill would."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from rlhf_tune.run.checkpoints import Shelf

_OTHERS = ("verification", "_model", "params")  # the time it took, and what Keras adds


class KilledError(Exception):
    pass


@contextmanager
def killed_after(writes: int) -> Iterator[None]:
    """Break off what runs inside; it must not end before."""
    write, left = Shelf.write, [writes]

    def written(self, state):
        write(self, state)
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    with mock.patch.object(Shelf, "write", written), pytest.raises(KilledError):
        yield


def entries(history):
    """All of a history but the time it took; as text, for some figures are NaN."""
    return {k: repr(v) for k, v in vars(history).items() if k not in _OTHERS}
