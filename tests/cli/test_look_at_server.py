"""A storage on a server is only read: an empty database stays empty."""

import gc
from collections.abc import Iterator

import optuna
import pytest

from rlhf_tune.cli import doctor
from rlhf_tune.cli.main import main
from tests.servers import needed_postgresql
from tests.study.bowl import with_constraint

pytestmark = [
    pytest.mark.slow,  # a database server is started
    # Optuna leaves the connections of its engine to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of an empty database."""
    with needed_postgresql() as url:
        yield url


def tables(url: str) -> int:
    with psycopg.connect(url.replace("+psycopg", "")) as db:
        (found,) = db.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchone()
    return found


def test_a_server_is_only_read(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "devices", lambda: iter(()))
    assert main(["recommend", "--storage", server]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["doctor", "--storage", server]) == 1
    assert tables(server) == 0
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(study_name="bowl", storage=server, sampler=sampler)
    study.optimize(with_constraint, n_trials=4)
    capsys.readouterr()
    assert main(["recommend", "--storage", server]) == 0
    assert "4 trials at 4 distinct points" in capsys.readouterr().out
    assert main(["doctor", "--storage", server]) == 0
    assert "pool_pre_ping" in capsys.readouterr().out
    del study
    gc.collect()  # while warnings are still ours to ignore
