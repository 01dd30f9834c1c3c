"""Servers of their own for tests, on free loopback ports, gone at the end."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.browsers import free_port


@contextlib.contextmanager
def postgresql() -> Iterator[str | None]:
    """The URL of a server of Debian's PostgreSQL, gone at the end; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    root = os.geteuid() == 0
    if not found or (root and shutil.which("runuser") is None):
        yield None
        return
    user = ["runuser", "-u", "postgres", "--"] if root else []  # the server refuses root
    with tempfile.TemporaryDirectory() as temporary:
        port, data = free_port(), Path(temporary) / "data"
        data.mkdir()
        if root:
            data.parent.chmod(0o755)
            shutil.chown(data, "postgres")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
        made = [*user, found[-1] / "initdb", "-D", data, "-A", "trust", "-U", "tester"]
        subprocess.run(made, check=True, cwd=data, stdout=subprocess.DEVNULL)
        control = [*user, found[-1] / "pg_ctl", "-D", data, "-w", "-l", data / "log"]
        start = [*control, "-o", options, "start"]
        subprocess.run(start, check=True, cwd=data, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, cwd=data, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def needed_postgresql() -> Iterator[str]:
    """The same, for a test that is skipped where there is none."""
    pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]'")
    with postgresql() as url:
        if url is None:
            pytest.skip("PostgreSQL is needed: apt-get install postgresql")
        yield url
