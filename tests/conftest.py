"""Shared set-up of the tests."""

import os
import sys

# `make core` names packages here that must not be needed: importing them fails as if they
# were not installed.
for _name in filter(None, os.environ.get("RLHF_TUNE_TEST_WITHOUT", "").split(",")):
    sys.modules[_name] = None  # type: ignore[assignment]
