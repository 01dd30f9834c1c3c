"""Commands that are killed at random moments lose nothing, and end alike where that is promised."""

import os

import pytest

from tests.faults.kill_matrix import tally
from tests.faults.victims import URL, VICTIMS
from tests.servers import needed_postgresql

FRAMEWORKS = {"fit of Keras": "keras", "demo": "sklearn"}
QUICK = {"study on SQLite": 2, "pretrain": 1}


def survives(name: str, times: int) -> None:
    for package in ("cleverhans", "matplotlib", FRAMEWORKS.get(name, "torch")):
        pytest.importorskip(package)
    counted = tally(name, times, seed=1)
    assert counted.tried == times
    assert not counted.problems


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_lost(name: str) -> None:
    survives(name, QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VICTIMS.keys() - QUICK.keys() - {"study on PostgreSQL"}))
def test_nothing_is_lost_by_the_longer_ones(name: str) -> None:
    survives(name, 3)


@pytest.mark.slow
def test_nothing_is_lost_on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with needed_postgresql() as url:
        monkeypatch.setitem(os.environ, URL, url)
        survives("study on PostgreSQL", 3)
