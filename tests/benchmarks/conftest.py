"""What the tests of the benchmarks share."""

from collections.abc import Iterator

import pytest
import torch

from rlhf_tune.threads import one_thread


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """On one thread, as in the benchmarks: networks this small only wait for other threads.

    Commands set the process up for themselves; the tests that follow must find it as it was.
    """
    threads = torch.get_num_threads()
    with one_thread():
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
