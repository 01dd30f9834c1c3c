"""Eight worker processes, 200 trials, on the storages that clusters use: real servers."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState

from rlhf_tune.study.transitions import transitions
from tests.cli.browsers import free_port
from tests.servers import needed_postgresql as postgresql
from tests.study import side_by_side

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:the study ends here"),
]

STORAGES = ["postgresql", "journal", "grpc"]


@contextmanager
def grpc(folder: Path) -> Iterator[str]:
    """Optuna's storage proxy over SQLite, in a process of its own."""
    pytest.importorskip("grpc", reason="pip install grpcio")
    port = free_port()
    code = (
        "import sys, optuna\n"
        "storage = optuna.storages.RDBStorage(sys.argv[1])\n"
        "optuna.storages.run_grpc_proxy_server(storage, host='127.0.0.1', port=int(sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", code, f"sqlite:///{folder / 'study.db'}", str(port)]
    server = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        side_by_side.open_storage(f"grpc:{port}").wait_server_ready(timeout=60)
        yield f"grpc:{port}"
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def started(kind: str, folder: Path) -> Iterator[str]:
    if kind == "journal":
        yield side_by_side.journal(folder)
        return
    with postgresql() if kind == "postgresql" else grpc(folder) as url:
        yield url


@pytest.mark.parametrize("kind", STORAGES)
def test_no_two_workers_run_the_same_point(kind: str, tmp_path: Path) -> None:
    with started(kind, tmp_path) as url:
        trials = side_by_side.run(url, workers=8, trials=200, seconds=0.05)
        with side_by_side.shared(url) as study:
            table = transitions(study)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 200
    assert side_by_side.at_once(trials) == []
    assert side_by_side.repeated_in_vain(trials) == []
    first = next(t.number for t in trials if t.state == TrialState.COMPLETE)
    assert table.number.tolist() == list(range(first + 1, 200))
    assert table.reward.sum() == pytest.approx(table.next_state[-1, 0] - table.state[0, 0])


@pytest.mark.parametrize("constrained", [False, True])
def test_under_noise_a_point_is_measured_again_by_one_worker(
    constrained: bool, tmp_path: Path
) -> None:
    """A study with constraints may end: what is run then is the incumbent, by each worker."""
    url = side_by_side.journal(tmp_path)
    trials = side_by_side.run(url, workers=8, trials=160, noise=0.3, constrained=constrained)
    assert side_by_side.at_once(trials) == []


def test_a_killed_worker_s_point_comes_back_on_postgresql() -> None:
    with postgresql() as url:
        side_by_side.check_that_a_killed_trial_comes_back(url)
