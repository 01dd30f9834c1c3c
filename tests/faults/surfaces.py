"""How many cases a property is tried on, and the one thing that all of them must be.

`RLHF_TUNE_TEST_CASES=10000` (`make faults`) tries as many on each surface; the default is a slice.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hypothesis import HealthCheck, settings

from rlhf_tune.errors import RlhfTuneError

ASKED = int(os.environ.get("RLHF_TUNE_TEST_CASES", "0"))


def cases(slice_of: int) -> Callable[[Any], Any]:
    """Settings of a surface; the slice is the same in every run."""
    return settings(
        max_examples=ASKED or slice_of,
        derandomize=not ASKED,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def no_foreign_error() -> Iterator[None]:
    """What is refused is refused in our own words."""
    with suppress(RlhfTuneError):
        yield
