"""Several processes that train one model are refused, as each would decide by itself."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.mark.parametrize(
    "who",
    [
        "plain",
        pytest.param("transformers", marks=pytest.mark.slow),
    ],
)
def test_two_processes(who, tmp_path):
    if who != "plain" and importlib.util.find_spec(who) is None:
        pytest.skip(f"{who} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), who, str(tmp_path)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outcomes = [process.communicate(timeout=120) for process in started]
    for out, err in outcomes:
        assert "refused: a run must train in one process" in out, err[-2000:]
