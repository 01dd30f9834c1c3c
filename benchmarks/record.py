"""Record tuning tasks: real training over learning rate x batch size x epochs.

    python -m benchmarks.record                      # embedded and synthetic data sets
    python -m benchmarks.record --data-dir FOLDER    # also mnist.npz, adult.csv.gz, ...

A task is one (data set, network, optimizer). For each learning rate, batch size and seed it holds
the curves of one training run, with its own initialisation and order of samples. An epoch is 512
samples (1,024 on data sets that have as many), whatever the batch size, so small data sets are
passed over several times an epoch. The figures depend on the versions of PyTorch and of the
processor in the last digits. A file holds the tasks of one family of data sets. Finished tasks are
skipped, so a recording can be interrupted and resumed.

To record more, add an architecture to `networks.py`, a data set to `sources.py` or a recipe to a
data set, and run this again; a new family is entered in `tables/split.json` first. A task takes
20 kB and, on one core of a busy machine, 2-7 s for dense networks and 20-60 s for convolutions and
transformers. With glibc,

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 python -m benchmarks.record

keeps freed memory, which makes transformers two to three times as fast and changes no figure.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.recorded.data import DataSet, Source, prepare
from benchmarks.recorded.networks import Network, network
from benchmarks.recorded.sources import SOURCES
from benchmarks.recorded.tasks import TABLES
from benchmarks.recorded.training import (
    Optimizer,
    Scores,
    evaluate,
    fgsm_accuracy,
    orders,
    train_epoch,
)
from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.tables import Arrays, read_family
from rlhf_tune.progress import bars

LOSS_CAP = 1e4
"""Recorded losses are clipped here; infinity stands for a run whose loss is no number any more."""

_EPOCH_SAMPLES = 512


@dataclass(frozen=True)
class Grid:
    """What is recorded for every task.

    Attributes:
        learning_rates: [L]; four a decade from 1e-5 to 5.6, so the usual default 1e-3 is one.
        batch_sizes: [B] divisors of 512.
        seeds: [S].
        epochs: E.
        fgsm_epochs: [F] the epochs (from 1) after which robust accuracy is measured.
    """

    learning_rates: tuple[float, ...] = tuple(float(f"{10 ** (k / 4 - 5):.4g}") for k in range(24))
    batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    seeds: tuple[int, ...] = (0, 1)
    epochs: int = 12
    fgsm_epochs: tuple[int, ...] = (3, 6, 12)


@dataclass(frozen=True)
class Job:
    """One task to record."""

    dataset: str
    network: str
    optimizer: str

    @property
    def name(self) -> str:
        """The name of the task."""
        return f"{self.dataset}-{self.network}-{self.optimizer}"


def jobs(sources: Mapping[str, Source]) -> list[Job]:
    """Every data set with each of its recipes."""
    return [
        Job(dataset, *recipe.split("-"))
        for dataset, source in sources.items()
        for recipe in source.recipes
    ]


def train_grid(job: Job, data: DataSet, grid: Grid) -> Arrays:
    """Train every cell of the grid.

    Returns:
        `train_loss`, `train_accuracy` (means over the epoch's batches), `val_loss`,
        `val_accuracy` [S, L, B, E] and `fgsm_accuracy` [S, L, B, F].
    """
    columns = [_train_batch_size(job, data, grid, size) for size in grid.batch_sizes]
    shape = (len(grid.seeds), len(grid.learning_rates))
    tables = {}
    for key in columns[0]:
        table = torch.stack([column[key] for column in columns], dim=1).numpy()
        table = table.reshape(*shape, len(grid.batch_sizes), -1)
        if key.endswith("loss"):
            table = np.where(np.isfinite(table), np.minimum(table, LOSS_CAP), np.inf)
        tables[key] = _rounded(table) if key == "val_loss" else table.astype(np.float16)
    return tables


def _rounded(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 14 bits, a relative 3e-5: the noise of the rest does not compress."""
    mantissa, exponent = np.frexp(table)
    return np.asarray(np.ldexp(np.round(mantissa * 2**14) / 2**14, exponent), dtype=np.float32)


def _train_batch_size(job: Job, data: DataSet, grid: Grid, size: int) -> dict[str, Tensor]:
    """The curves [S * L, E] of all seeds and learning rates at one batch size."""
    net = network(job.network, data.x_train.shape[1], data.n_classes, data.steps)
    length = _epoch_samples(data)
    parameters, order = _draws(job, net, data, grid, size)
    rates = torch.tensor(grid.learning_rates).repeat(len(grid.seeds))
    optimizer = Optimizer(job.optimizer, parameters, rates)
    shift, scale = torch.from_numpy(data.shift), torch.from_numpy(data.scale)
    x_train, x_val = (
        (torch.from_numpy(part) - shift) / scale for part in (data.x_train, data.x_val)
    )
    y_train, y_val = torch.from_numpy(data.y_train), torch.from_numpy(data.y_val)
    train, val, fgsm = [], [], []
    for epoch in range(grid.epochs):
        rows = order[:, epoch * length : (epoch + 1) * length]
        batches = rows.view(len(rows), -1, size).transpose(0, 1)
        train.append(train_epoch(net, parameters, optimizer, x_train, y_train, batches))
        val.append(evaluate(net, parameters, x_val, y_val))
        if epoch + 1 in grid.fgsm_epochs:
            box = (data.eps / scale, -shift / scale, (1 - shift) / scale)
            fgsm.append(fgsm_accuracy(net, parameters, x_val, y_val, *box))
    curves = {f"train_{k}": v for k, v in _curves(train).items()}
    curves |= {f"val_{k}": v for k, v in _curves(val).items()}
    return curves | {"fgsm_accuracy": torch.stack(fgsm, dim=1)}


def _curves(scores: Sequence[Scores]) -> dict[str, Tensor]:
    return {
        "loss": torch.stack([s.loss for s in scores], dim=1),
        "accuracy": torch.stack([s.accuracy for s in scores], dim=1),
    }


def _draws(job: Job, net: Network, data: DataSet, grid: Grid, size: int) -> tuple[Tensor, Tensor]:
    """Initial parameters [S * L, P] and orders of samples [S * L, E * length]."""
    copies, length = len(grid.learning_rates), grid.epochs * _epoch_samples(data)
    parameters, order = [], []
    for seed in grid.seeds:
        generator = torch.Generator()
        generator.manual_seed(zlib.crc32(f"{job.name}/{size}/{seed}".encode()))
        parameters.append(net.initial(copies, generator))
        order.append(orders(copies, len(data.y_train), length, generator))
    return torch.cat(parameters), torch.cat(order)


def _epoch_samples(data: DataSet) -> int:
    return _EPOCH_SAMPLES * max(1, len(data.y_train) // _EPOCH_SAMPLES)


class Folder:
    """Where tables are kept: `manifest.json`, and a file of arrays for each family.

    The manifest says what was recorded how, with a checksum of each task: the SHA-256 of its
    arrays' names, types, shapes and bytes, so that it depends neither on how a family's file is
    compressed nor on the tasks beside it. Files are written whole or not at all, and the manifest
    last: a task that it does not name, as after a kill between the two, is recorded again. One
    process at a time may write to a folder.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        """Begin a folder, or go on with one.

        Raises:
            InvalidInputError: If the folder holds tables of another grid.
        """
        self._path, self._manifest = path, path / "manifest.json"
        self._read: dict[str, dict[str, Arrays]] = {}
        header = {"grid": json.loads(json.dumps(asdict(grid))), "loss_cap": LOSS_CAP}
        self._content: dict[str, Any] = {**header, "tasks": {}}
        if self._manifest.exists():
            self._content = json.loads(self._manifest.read_text())
            if any(self._content[key] != header[key] for key in header):
                raise InvalidInputError(
                    f"all tables of a folder must share one grid, but {self._manifest} was "
                    "recorded with another; give another folder with --out"
                )

    def has(self, job: Job) -> bool:
        """Whether the task is recorded and its arrays are those that were recorded."""
        return job.name in self._intact(SOURCES[job.dataset].family)

    def add(self, job: Job, data: DataSet, tables: Arrays, seconds: float) -> None:
        """Keep the tables of a task beside those of its family."""
        family = SOURCES[job.dataset].family
        tasks = self._intact(family)
        tasks[job.name] = tables
        arrays = {f"{name}/{key}": a for name in sorted(tasks) for key, a in tasks[name].items()}
        with files.whole(self._path / f"{family}.npz") as partial:
            np.savez_compressed(partial, **arrays)
        self._content["tasks"][job.name] = {
            **asdict(job),
            "family": family,
            "inputs": data.x_train.shape[1],
            "n_classes": data.n_classes,
            "n_train": len(data.y_train),
            "n_val": len(data.y_val),
            "epoch_samples": _epoch_samples(data),
            "eps": data.eps,
            "versions": {p: version(p) for p in ("numpy", "scikit-learn", "torch")},
            "seconds": round(seconds, 1),
            "sha256": checksum(tables),
        }
        self._content["tasks"] = dict(sorted(self._content["tasks"].items()))
        files.write(self._manifest, json.dumps(self._content, indent=1) + "\n")

    def _intact(self, family: str) -> dict[str, Arrays]:
        """The tasks of a family whose arrays are those that were recorded; read once."""
        if family not in self._read:
            known, path = self._content["tasks"], self._path / f"{family}.npz"
            try:
                found = read_family(path) if path.exists() else {}
            except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
                found = {}  # damaged, so to be recorded again
            self._read[family] = {
                name: arrays
                for name, arrays in found.items()
                if name in known and known[name]["sha256"] == checksum(arrays)
            }
        return self._read[family]


def checksum(arrays: Arrays) -> str:
    """The SHA-256 of a task's arrays, by measure: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def record(todo: Sequence[Job], path: Path, grid: Grid, data_dir: Path | None = None) -> int:
    """Record tasks that a folder does not hold yet, and return how many those were.

    Raises:
        InvalidInputError: If the folder holds tables of another grid.
    """
    path.mkdir(parents=True, exist_ok=True)
    folder = Folder(path, grid)
    missing = [job for job in todo if not folder.has(job)]
    with bars() as shown:
        bar = shown.add_task("", total=len(missing))
        for job in missing:
            shown.update(bar, description=job.name)
            started = time.perf_counter()
            data = prepare(SOURCES[job.dataset], data_dir)
            tables = train_grid(job, data, grid)
            folder.add(job, data, tables, time.perf_counter() - started)
            shown.advance(bar)
    return len(missing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with any of "
        + ", ".join(sorted({s.file for s in SOURCES.values() if s.file})),
    )
    parser.add_argument("--out", type=Path, default=TABLES, help="where tables go (%(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PATTERN",
        default=["*"],
        help="names of tasks, as in 'digits-*' '*-adam'; --list shows them",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the tasks and stop")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    chosen = [job for job in jobs(SOURCES) if any(fnmatch.fnmatch(job.name, p) for p in args.only)]
    if not chosen:
        print(f"no task matches {' '.join(args.only)}; --list shows all", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(job.name for job in chosen))
        return 0
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # dead units would otherwise slow training down tenfold
    ready = [job for job in chosen if _available(SOURCES[job.dataset], args.data_dir)]
    new = record(ready, args.out, Grid(), args.data_dir)
    print(f"{new} recorded, {len(ready) - new} were there already; {args.out}")
    if len(ready) < len(chosen):
        absent = sorted({job.dataset for job in chosen} - {job.dataset for job in ready})
        print(f"left out, as their files are not in --data-dir: {', '.join(absent)}")
    return 0


def _available(source: Source, data_dir: Path | None) -> bool:
    return source.file is None or (data_dir is not None and (data_dir / source.file).exists())


if __name__ == "__main__":
    raise SystemExit(main())
