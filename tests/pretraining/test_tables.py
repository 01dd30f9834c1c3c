"""Recorded tasks as the source of a prior."""

import json

import numpy as np
import pytest


def test_recorded_tables_are_read_as_the_benchmarks_read_them() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.recorded import tasks
    from rlhf_tune.pretraining.tables import read_tables

    table = tasks.load("train")[0]
    mine = read_tables(tasks.TABLES)["performance"][0]
    theirs = -tasks.normalised(table.val_loss[..., -1], table.chance)
    np.testing.assert_allclose(mine.values, theirs, atol=1e-6)
    assert json.loads((tasks.TABLES / "split.json").read_text())["train"]
