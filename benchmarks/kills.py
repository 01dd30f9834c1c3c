"""Training runs that are killed again and again: is anything lost, and do they end alike?

A run writes checkpoints in a process of its own, which is killed (SIGKILL) at random moments and
started anew until it ends; then another one begins. Each must end as one that nobody killed, in
weights, optimizer and history; every state that was written must be there after the kill. For
example:

    python -m benchmarks.kills --framework torch --kills 50
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, publish
from rlhf_tune.run.checkpoints import Shelf
from rlhf_tune.safety.custom import constraint

_EPOCHS, _SAMPLES, _WIDTH = 12, 2000, 256
_BEGUN = "begun"  # what a process says when it trains


@dataclass
class Tally:
    """What became of the runs.

    Attributes:
        kills: Of processes.
        within_writes: How many of these left a file half written.
        ended: Runs that ended, with or without kills.
        unequal: Of these, those that did not end as the one that nobody killed.
        lost: Kills after which a state that had been written was not there.
    """

    kills: int = 0
    within_writes: int = 0
    ended: int = 0
    unequal: int = 0
    lost: int = 0
    _half: int = field(default=0, repr=False)  # when the last of them was written

    def check(self, folder: Path) -> None:
        """Look at what a kill left."""
        self.kills += 1
        half = max((p.stat().st_mtime_ns for p in folder.glob(".latest.*.partial.*")), default=0)
        self.within_writes += half > self._half
        self._half = max(half, self._half)
        state = Shelf(folder).read()
        there = -1 if state is None else len(state["run"]["guarded"]["record"])
        log = folder / "written"
        written = [int(line) for line in log.read_text().split()] if log.exists() else []
        self.lost += there < max(written, default=-1)


def run(framework: str, folder: Path | None) -> str:
    """Train, and digest what came out; the folder also gets a line for each state written."""
    if folder is not None:
        _log_writes(folder)
    arrays, history = _torch(folder) if framework == "torch" else _keras(folder)
    digest = hashlib.sha256(repr(history).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _log_writes(folder: Path) -> None:
    write = Shelf.write

    def logged(self: Shelf, state: Any) -> None:
        write(self, state)
        with (folder / "written").open("a") as file:
            file.write(f"{len(state['run']['guarded']['record'])}\n")

    Shelf.write = logged  # type: ignore[method-assign]


def _data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_SAMPLES, 20)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


def _constraints() -> list[Any]:
    return [constraint("kept", lambda _: 1.0, at_least=0.5)]


def _torch(folder: Path | None) -> tuple[Iterable[Any], Any]:
    import torch

    from rlhf_tune_integrations.pytorch import fit

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = [torch.nn.Linear(20, _WIDTH), torch.nn.BatchNorm1d(_WIDTH), torch.nn.ReLU()]
    hidden += [torch.nn.Dropout(0.2), torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.ReLU()]
    model = torch.nn.Sequential(*hidden, torch.nn.Linear(_WIDTH, 2))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = _data()
    print(_BEGUN, flush=True)
    history = fit(
        model,
        optimizer,
        torch.nn.functional.cross_entropy,
        (x[:1500], y[:1500]),
        (x[1500:], y[1500:]),
        epochs=_EPOCHS,
        constraints=_constraints(),
        checkpoint=folder,
        verbose=0,
    )
    moments = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    tensors = [*model.state_dict().values(), *moments]
    return [tensor.numpy() for tensor in tensors], _told(history)


def _keras(folder: Path | None) -> tuple[Iterable[Any], Any]:
    import keras

    from rlhf_tune_integrations.keras import fit

    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(_WIDTH, "relu"), keras.layers.BatchNormalization()]
    hidden += [keras.layers.Dropout(0.2), keras.layers.Dense(_WIDTH, "relu")]
    model = keras.Sequential([keras.Input((20,)), *hidden, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    x, y = _data()
    print(_BEGUN, flush=True)
    history = fit(
        model,
        x[:1500],
        y[:1500],
        epochs=_EPOCHS,
        validation_data=(x[1500:], y[1500:]),
        constraints=_constraints(),
        checkpoint=folder,
        verbose=0,
    )
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v.value) for v in variables], _told(history)


def _told(history: Any) -> Any:
    return history.history, history.epoch, history.discarded, history.range_test


def tally(framework: str, kills: int, *, seed: int = 0) -> Tally:
    """Kill so many processes."""
    rng, counted = np.random.default_rng(seed), Tally()
    with tempfile.TemporaryDirectory() as home:
        process, begun = _started(framework, None), time.perf_counter()
        expected = _finished(process)
        longest = time.perf_counter() - begun  # from the beginning of training
        number = 0
        while counted.kills < kills or (Path(home) / str(number)).exists():
            folder = Path(home) / str(number)
            folder.mkdir(exist_ok=True)
            process = _started(framework, folder)
            wait = float(rng.uniform(0, longest)) if counted.kills < kills else None
            try:
                result = _finished(process, wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                counted.check(folder)
                continue
            counted.ended += 1
            counted.unequal += result != expected
            number += 1
    return counted


def _started(framework: str, folder: Path | None) -> subprocess.Popen[str]:
    """A process that is about to train."""
    words = ["--framework", framework, "--run", "" if folder is None else str(folder)]
    process = subprocess.Popen(  # noqa: S603 - this command itself
        [sys.executable, "-m", "benchmarks.kills", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()).strip() != _BEGUN:
        if not line:
            raise RuntimeError(f"a process ended with {process.wait()} before it trained")
    return process


def _finished(process: subprocess.Popen[str], wait: float | None = None) -> str:
    """The digest of a process that ended by itself."""
    out, _ = process.communicate(timeout=wait)
    if process.returncode:
        raise RuntimeError(f"a run ended with status {process.returncode}")
    return str(json.loads(out)["digest"])


def table(tallies: dict[str, Tally]) -> Table:
    """A row for each framework."""
    columns = "framework", "kills", "within a write", "states lost", "runs ended", "unequal"
    result = Table(*columns, title="training runs under SIGKILL")
    for name, t in tallies.items():
        figures = t.kills, t.within_writes, t.lost, t.ended, t.unequal
        result.add_row(name, *map(str, figures))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, and print what became of it; the status is 1 where something was lost or unequal."""
    args = _parser().parse_args(argv)
    if args.run is not None:
        digest = run(args.framework[0], Path(args.run) if args.run else None)
        print(json.dumps({"digest": digest}))
        return 0
    tallies = {name: tally(name, args.kills, seed=args.seed) for name in args.framework}
    result = table(tallies)
    Console().print(result)
    if args.write:
        words = shlex.join(list(sys.argv[1:] if argv is None else argv))
        publish("kills", f"`python -m benchmarks.kills {words}`", [result], args.write)
    return int(any(t.lost or t.unequal for t in tallies.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    both = ["torch", "keras"]
    add("--framework", nargs="+", choices=both, default=both, help="which (both)")
    add("--kills", type=int, default=50, help="of each framework (50)")
    add("--seed", type=int, default=0, help="of the moments (0)")
    add_write(parser)
    add("--run", help=argparse.SUPPRESS)  # train in this process
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
