"""What the tests of the benchmarks share."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from rlhf_tune.threads import one_thread

# The benchmarks train networks: all of them need what a light core lacks.
collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """On one thread, as in the benchmarks: networks this small only wait for other threads.

    Commands set the process up for themselves; the tests that follow must find it as it was.
    """
    import torch

    threads = torch.get_num_threads()
    with one_thread():
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
