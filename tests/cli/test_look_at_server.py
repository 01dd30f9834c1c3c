"""A storage on a server is only read: an empty database stays empty."""

import gc
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from rlhf_tune.cli import doctor
from rlhf_tune.cli.main import main
from tests.study.bowl import with_constraint

pytestmark = [
    pytest.mark.slow,  # a database server is started
    # Optuna leaves the connections of its engine to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

psycopg = pytest.importorskip("psycopg")
BIN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on a free loopback port; the server is stopped at the end."""
    if not (BIN / "pg_ctl").exists():
        pytest.skip("PostgreSQL 15 is not installed")
    folder = Path(f"/tmp/look-{os.getpid()}")  # the server's user must reach it
    folder.mkdir(mode=0o755)
    user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to be run by root
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    data = str(folder / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*words: str) -> None:
        subprocess.run([*user, *words], check=True, capture_output=True, cwd=folder)

    try:
        call(str(BIN / "initdb"), "-D", data, "-A", "trust", "-U", "ada", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        log = str(folder / "log")
        call(str(BIN / "pg_ctl"), "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://ada@127.0.0.1:{port}/postgres"
        finally:
            call(str(BIN / "pg_ctl"), "-D", data, "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder)


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
