"""Shared set-up of the tests."""

import os
import sys

# The tests run side by side, one process a core. With more threads than that the processes wait
# for each other: the smallest networks then take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make core` names packages here that must not be needed: importing them fails as if they
# were not installed.
for _name in filter(None, os.environ.get("RLHF_TUNE_TEST_WITHOUT", "").split(",")):
    sys.modules[_name] = None  # type: ignore[assignment]
