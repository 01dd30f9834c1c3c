"""Compare ways to set the learning rate within one training run, at equal gradient steps.

Every method gets the same number of gradient steps (range tests, probes and what is rolled back
included), the same batches, and hands back its best state by the validation loss. Scored is the
accuracy on held-out data, as the gap to the best of 11 constant rates, which is known in hindsight
only. Methods that take an initial rate are given 1e-5 to 1 in turn. Examples:

    python -m benchmarks.one_run                         # validation tasks, all methods
    python -m benchmarks.one_run --split train --tasks 12 --methods default constant
    python -m benchmarks.one_run --scales 0.1 10         # inputs scaled by so much
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from benchmarks.data import DataSet, prepare
from benchmarks.report import mean_and_error
from benchmarks.sources import SOURCES
from benchmarks.tasks import TABLES
from rlhf_tune.run import Run
from rlhf_tune_integrations._torch_trainer import usual_rate
from rlhf_tune_integrations.pytorch import TorchTrainer

STRETCH = 24  # steps between two looks at the validation loss
BATCH = 32
INITIAL_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HIDDEN = {"linear": (), "mlp64": (64,), "mlp32x32": (32, 32)}


@dataclass(frozen=True)
class Problem:
    """A network, an optimizer and data in three parts."""

    name: str
    data: DataSet
    network: str
    optimizer: str
    scale: float
    steps: int

    def inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network sees: standardised, then scaled."""
        return (x - self.data.shift) / self.data.scale * np.float32(self.scale)

    def trainer(self, rate: float, seed: int, optimizer: str | None = None) -> TorchTrainer:
        """A fresh run; equal seeds have equal weights and batches."""
        torch.manual_seed(seed)
        model = _network(self.network, self.data)
        half = len(self.data.x_val) // 2
        return TorchTrainer(
            model,
            _OPTIMIZERS[optimizer or self.optimizer](model.parameters(), rate),
            torch.nn.functional.cross_entropy,
            (self.inputs(self.data.x_train), self.data.y_train),
            (self.inputs(self.data.x_val[:half]), self.data.y_val[:half]),
            batch_size=BATCH,
            seed=seed,
        )

    def score(self, trainer: TorchTrainer) -> float:
        """Accuracy on the held-out half of what is not trained on."""
        half = len(self.data.x_val) // 2
        with torch.no_grad():
            x = torch.from_numpy(self.inputs(self.data.x_val[half:]))
            guesses = trainer.model.eval()(x).argmax(dim=1).numpy()
        return float((guesses == self.data.y_val[half:]).mean())


def _network(name: str, data: DataSet) -> torch.nn.Module:
    if name == "cnn":
        assert data.steps is not None
        places = ((data.steps + 1) // 2) ** 2
        return torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, data.steps, data.steps)),
            torch.nn.Conv2d(1, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * places, data.n_classes),
        )
    widths = (data.x_train.shape[1], *_HIDDEN[name])
    layers = [
        layer
        for width, following in pairwise(widths)
        for layer in (torch.nn.Linear(width, following), torch.nn.ReLU())
    ]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], data.n_classes))


def _prodigy(parameters: Iterable[torch.nn.Parameter], _rate: float) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    return Prodigy(parameters, lr=1.0)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
    "prodigy": _prodigy,
}

Schedule = Callable[[float], float]
Method = Callable[[Problem, float, int], TorchTrainer]


def cosine(progress: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float) -> float:
    """Torch's OneCycleLR with the given rate as the maximum: up for .3 of the steps, then down."""
    if progress < 0.3:
        return 1 - (1 - 1 / 25) * cosine(progress / 0.3)
    return cosine((progress - 0.3) / 0.7)


def scheduled(
    schedule: Schedule, problem: Problem, rate: float, seed: int, optimizer: str | None = None
) -> TorchTrainer:
    """Train by a schedule; the best state is kept, diverged ones never are."""
    trainer = problem.trainer(rate, seed, optimizer)
    best = _Best(trainer)
    start = trainer.hyperparameters["learning_rate"]
    every = STRETCH if schedule is _flat else 1
    for step in range(0, problem.steps, every):
        factor = max(schedule((step + every / 2) / problem.steps), 1e-8)
        trainer.set(learning_rate=start * factor)
        if not math.isfinite(trainer.train(every)["loss"]):
            break
        if (step + every) % STRETCH == 0:
            best.look()
    return best.restored()


def plateau(problem: Problem, rate: float, seed: int) -> TorchTrainer:
    """ReduceLROnPlateau: a tenth of the rate after 4 looks without a better validation loss."""
    trainer = problem.trainer(rate, seed)
    best, waited = _Best(trainer), 0
    for _ in range(0, problem.steps, STRETCH):
        if not math.isfinite(trainer.train(STRETCH)["loss"]):
            break
        waited = 0 if best.look() else waited + 1
        if waited > 3:
            rate, waited = rate / 10, 0
            trainer.set(learning_rate=rate)
    return best.restored()


def greedy(problem: Problem, rate: float, seed: int) -> TorchTrainer:
    """Probe a quarter, the same and four times the rate from a snapshot, and keep the best."""
    trainer = problem.trainer(rate, seed)
    best = _Best(trainer)
    for _ in range(0, problem.steps, 3 * STRETCH):
        start, ends = trainer.snapshot(), []
        for probed in (rate / 4, rate, rate * 4):
            trainer.restore(start)
            trainer.set(learning_rate=probed)
            trainer.train(STRETCH)
            loss = trainer.evaluate()["val_loss"]
            ends.append((loss if math.isfinite(loss) else math.inf, probed, trainer.snapshot()))
        _, rate, end = min(ends, key=lambda each: each[0])
        trainer.restore(end)
        best.look()
    return best.restored()


def driven(policy: str, problem: Problem, rate: float, seed: int) -> TorchTrainer:
    """This project's policies."""
    trainer = problem.trainer(rate, seed)
    epochs = Fraction(problem.steps, trainer.steps_per_epoch)
    run = Run(trainer, epochs=epochs, policy=policy, usual_rate=usual_rate(trainer._optimizer))
    run.drive(lambda _: None)
    return trainer


class _Best:
    """Keeps the best state of a run that is driven otherwise."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer, self._loss = trainer, math.inf
        self._state = trainer.snapshot()

    def look(self) -> bool:
        """Evaluate; returns whether the state is the best so far."""
        loss = self._trainer.evaluate()["val_loss"]
        better = math.isfinite(loss) and loss < self._loss
        if better:
            self._loss, self._state = loss, self._trainer.snapshot(into=self._state)
        return better

    def restored(self) -> TorchTrainer:
        """Go back to it."""
        self._trainer.restore(self._state)
        return self._trainer


def _flat(_progress: float) -> float:
    return 1.0


METHODS: dict[str, Method] = {
    "constant": partial(scheduled, _flat),
    "cosine": partial(scheduled, cosine),
    "OneCycle": partial(scheduled, one_cycle),
    "ReduceLROnPlateau": plateau,
    "Prodigy": partial(scheduled, _flat, optimizer="prodigy"),
    "Prodigy, cosine": partial(scheduled, cosine, optimizer="prodigy"),
    "greedy probe": greedy,
    "bold": partial(driven, "bold"),
    "grow": partial(driven, "grow"),
    "default": partial(driven, "default"),
}
_IGNORE_RATE = ("Prodigy", "Prodigy, cosine", "grow", "default")


def hindsight_rates(optimizer: str) -> NDArray[np.float64]:
    """The 11 constant rates, two a decade."""
    return np.geomspace(1e-4, 10, 11) if optimizer == "sgd" else np.geomspace(1e-5, 1, 11)


def gaps(
    job: tuple[str, str, float],
    methods: Sequence[str],
    seeds: int,
    steps: int,
    data_dir: Path | None,
) -> dict[str, NDArray[np.float64]]:
    """[seeds, initial rates] the gap of each method; [seeds, 1] where the rate is ignored."""
    torch.set_num_threads(1)
    source, recipe, scale = job
    network, optimizer = recipe.split("-")
    data = prepare(SOURCES[source], data_dir)
    problem = Problem(f"{source}-{recipe}", data, network, optimizer, scale, steps)
    salt = zlib.crc32(problem.name.encode())
    numbers = [(salt + seed) % 2**31 for seed in range(seeds)]
    constants = [
        [
            problem.score(METHODS["constant"](problem, rate, seed))
            for rate in hindsight_rates(optimizer)
        ]
        for seed in numbers
    ]
    ceiling = np.mean(constants, axis=0).max()
    result = {}
    for name in methods:
        rates = (1e-3,) if name in _IGNORE_RATE else INITIAL_RATES
        scores = [[problem.score(METHODS[name](problem, r, s)) for r in rates] for s in numbers]
        result[name] = ceiling - np.array(scores)
    return result


def summary(results: Sequence[dict[str, NDArray[np.float64]]]) -> Table:
    """Mean and standard error over tasks, and the worst decile of runs."""
    table = Table(
        Column("method", no_wrap=True),
        "gap, mean ± s.e. of tasks",
        "worst decile",
        "worst",
        "by initial rate, 1e-5 to 1",
    )
    for name in results[0]:
        tasks = [result[name] for result in results]
        runs = np.concatenate([task.ravel() for task in tasks])
        by_rate = np.mean([task.mean(axis=0) for task in tasks], axis=0)
        table.add_row(
            name,
            mean_and_error(np.array([task.mean() for task in tasks])),
            f"{np.quantile(runs, 0.9):.3f}",
            f"{runs.max():.3f}",
            " ".join(f"{gap:.3f}" for gap in by_rate),
        )
    return table


def jobs(split: str, scales: Sequence[float], files: bool) -> list[tuple[str, str, float]]:
    """Every (data set, recipe, scale) of a split whose network and optimizer are built here."""
    families = json.loads((TABLES / "split.json").read_text())[split]
    return [
        (name, recipe, scale)
        for name, source in SOURCES.items()
        if source.family in families and (files or source.file is None)
        for recipe, scale in product(source.recipes, scales)
        if _known(*recipe.split("-"))
    ]


def _known(network: str, optimizer: str) -> bool:
    return (network == "cnn" or network in _HIDDEN) and optimizer in ("adam", "sgd")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.one_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    known = [name for name in METHODS if "Prodigy" not in name or find_spec("prodigyopt")]
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--methods", nargs="+", choices=known, default=known)
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--seeds", type=int, default=2, help="runs a task, method and rate (2)")
    add("--steps", type=int, default=600, help="gradient steps of a run (600)")
    add("--scales", type=float, nargs="+", default=[1.0], help="factors on the inputs (1)")
    add("--data-dir", type=Path, help="folder of mnist.npz, adult.csv.gz, ... (left out)")
    add("--processes", type=int, default=2, help="tasks side by side (2)")
    args = parser.parse_args(argv)
    chosen = jobs(args.split, args.scales, files=args.data_dir is not None)
    if args.tasks:
        picked = np.random.default_rng(0).permutation(len(chosen))[: args.tasks]
        chosen = [chosen[i] for i in sorted(picked)]
    fixed = {"methods": args.methods, "seeds": args.seeds, "steps": args.steps}
    work = partial(gaps, data_dir=args.data_dir, **fixed)
    with ProcessPoolExecutor(args.processes) as pool:
        results = list(track(pool.map(work, chosen), total=len(chosen), description="tasks"))
    Console().print(f"{len(chosen)} tasks of the split {args.split}", summary(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
