"""Does a run reach a robustness floor that plain training misses, and does the floor then hold?

A run is given a floor of robust accuracy on probe data, under `reach=True`. Beside it, with the
same data, seeds and hand-back, weights of adversarial training that stay where they are, and plain
training. What each hands back as certified is judged by the full ladder of attacks on held-out
data that nothing was measured on. "Best fixed" is, of the fixed weights that were certified, the
one of the highest accuracy on held-out data: hindsight, at as many runs as there are weights.
Digits are scikit-learn's; MNIST needs its file. With `--keep FOLDER` every run is kept as it ends,
and not played again by the next command. For example:

    python -m benchmarks.knobs
    python -m benchmarks.knobs --data-dir data --seeds 3        # MNIST: mnist.npz is there
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from benchmarks.common.report import add_write, publish
from rlhf_tune.errors import CannotCertify
from rlhf_tune.progress import track
from rlhf_tune.run.driver import Run
from rlhf_tune.run.reach import Reach
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune_integrations.pytorch import TorchTrainer

FIXED = (0.25, 0.5, 0.75, 0.95)
_CLOSE = 0.01  # of accuracy: level with the best fixed weight

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
Floors = dict[float, tuple[float, ...]]


@dataclass(frozen=True)
class Task:
    """Data, a network, and floors by radius; the data are divided anew for each seed.

    Attributes:
        name: Of the data.
        rows: All samples.
        sizes: Of the rows to train on, to validate on and to probe; the next ones are held out.
        held_out: How many of them.
        network: Makes an untrained one.
        epochs: The budget.
        floors: By radius.
        beyond: Floors by radius that no method comes near.
    """

    name: str
    rows: Rows
    sizes: tuple[int, int, int]
    held_out: int
    network: Callable[[], torch.nn.Module]
    epochs: int
    floors: Floors
    beyond: dict[float, float]

    def divided(self, seed: int) -> list[Rows]:
        """Training, validation, probe and held-out rows."""
        x, y = self.rows
        order = np.random.default_rng(seed).permutation(len(x))
        ends = np.cumsum([*self.sizes, self.held_out])
        return [(x[part], y[part]) for part in np.split(order[: ends[-1]], ends[:-1])]


def digits() -> Task:
    """1,797 images of 8 x 8 pixels, and a network of two layers."""
    from sklearn.datasets import load_digits

    found = load_digits()

    def network() -> torch.nn.Module:
        layers = torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
        return torch.nn.Sequential(*layers)

    rows = (found.data / 16).astype(np.float32), found.target.astype(np.int64)
    floors = {0.1: (0.5, 0.6, 0.7), 0.2: (0.2, 0.3, 0.4)}
    beyond = {0.1: 0.95, 0.2: 0.75}
    return Task("digits", rows, (800, 200, 400), 397, network, 20, floors, beyond)


def mnist(file: Path) -> Task:
    """Images of 28 x 28 pixels from a file as Keras keeps it, and a small CNN."""
    with np.load(file) as content:
        x, y = content["x_train"][:20_000], content["y_train"][:20_000]

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 8, 5, stride=2), torch.nn.ReLU()),
            *(torch.nn.Conv2d(8, 16, 5, stride=2), torch.nn.ReLU(), torch.nn.Flatten()),
            torch.nn.Linear(16 * 16, 10),
        )

    rows = (x[:, None] / 255).astype(np.float32), y.astype(np.int64)
    floors = {0.1: (0.6, 0.7, 0.8), 0.2: (0.3, 0.4, 0.5)}
    beyond = {0.1: 0.98, 0.2: 0.95}
    return Task("mnist", rows, (2000, 400, 600), 600, network, 8, floors, beyond)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        certified: Whether its model was handed back as one that keeps the floor.
        robust: Accuracy under the full ladder on held-out data; NaN where nothing was promised.
        floor: That was asked for.
        accuracy: Clean accuracy on held-out data; likewise.
        seconds: Processor time of the run, the certification included.
        epochs: Of the budget spent.
    """

    certified: bool
    robust: float
    floor: float
    accuracy: float
    seconds: float
    epochs: float

    @property
    def violates(self) -> bool:
        """Whether it was certified and the floor does not hold on held-out data."""
        return self.certified and self.robust < self.floor


def run(task: Task, method: str | float, *, eps: float, floor: float, seed: int) -> Outcome:
    """One run: "reach", "plain", or with a weight that stays."""
    train, validation, probe, held_out = task.divided(seed)
    reach = _reach(RobustAccuracy(*probe, eps=eps, at_least=floor), method)
    torch.manual_seed(seed)
    model = task.network()
    trainer = TorchTrainer(
        model,
        torch.optim.Adam(model.parameters()),
        torch.nn.functional.cross_entropy,
        train,
        validation,
        remedies=reach.remedies.values(),
        seed=seed,
    )
    begun, certified = time.process_time(), True
    driven = Run(trainer, epochs=task.epochs, reach=reach)
    try:
        driven.drive(lambda _: None)
    except CannotCertify:
        certified = False
    seconds, spent = time.process_time() - begun, driven.guarded.spent
    if not certified:
        return Outcome(certified, math.nan, floor, math.nan, seconds, spent)
    judged = RobustAccuracy(*held_out, eps=eps, at_least=floor, full=True)(model)
    clean = judged.details["clean_accuracy"]
    return Outcome(certified, judged.value, floor, clean, seconds, spent)


def _reach(floor: RobustAccuracy, method: str | float) -> Reach:
    reach = Reach.of([floor])
    if method == "reach":
        return reach
    if method == "plain":
        return replace(reach, remedies={})
    stays = {"start": float(method), "rise": 0.0, "fall": 0.0, "within": (0.0, 1.0)}
    remedies = {name: replace(remedy, **stays) for name, remedy in reach.remedies.items()}
    return replace(reach, remedies=remedies)


def play(data_dir: Path | None, epochs: int, method: str | float, **asked: Any) -> Outcome:
    """`run`, by what a process can be given and a folder keeps: the data's place, the budget."""
    torch.set_num_threads(1)
    return run(task_of(data_dir, epochs), method, **asked)


def task_of(data_dir: Path | None, epochs: int) -> Task:
    """Digits, or MNIST where a folder has it, with the task's own budget for 0 epochs."""
    task = digits() if data_dir is None else mnist(data_dir / "mnist.npz")
    return replace(task, epochs=epochs or task.epochs)


Case = dict[str | float, Outcome]
"""Of one radius, floor and seed: the outcomes by method."""


def best_fixed(case: Case) -> Outcome | None:
    """In hindsight; None where no fixed weight was certified."""
    kept = [case[weight] for weight in FIXED if case[weight].certified]
    return max(kept, key=lambda outcome: outcome.accuracy, default=None)


def table(cases: Sequence[Case], title: str) -> Table:
    """What each method certified, whether it held, and what it cost."""
    result = Table(
        Column("method", no_wrap=True),
        "certified",
        "violations on held-out data",
        "robust accuracy above the floor",
        "clean accuracy",
        "time",
        title=title,
    )
    rows: dict[str, list[tuple[Outcome | None, Case]]] = {
        "reach=True": [(case["reach"], case) for case in cases],
        "best fixed weight": [(best_fixed(case), case) for case in cases],
        **{f"weight {w}": [(case[w], case) for case in cases] for w in FIXED},
        "plain": [(case["plain"], case) for case in cases],
    }
    for name, pairs in rows.items():
        kept = [(one, case) for one, case in pairs if one is not None and one.certified]
        outcomes = [one for one, _ in kept]
        violated = sum(one.violates for one in outcomes)
        spent = [one.seconds / case["plain"].seconds for one, case in pairs if one is not None]
        result.add_row(
            name,
            f"{len(kept)} of {len(pairs)}",
            f"{violated} of {len(kept)}",
            _mean([one.robust - one.floor for one in outcomes]),
            _mean([one.accuracy for one in outcomes]),
            _mean(spent) if name != "best fixed weight" else f"{len(FIXED)} runs",
        )
    return result


def verdict(cases: Sequence[Case]) -> str:
    """The target: certified where a fixed weight can be, at about its accuracy."""
    possible = [(case, best) for case in cases if (best := best_fixed(case)) is not None]
    both = [(case["reach"], best) for case, best in possible if case["reach"].certified]
    lost = [best.accuracy - ours.accuracy for ours, best in both]
    alone = sum(case["reach"].certified and best_fixed(case) is None for case in cases)
    hopeless = [case["reach"] for case in cases if not case["reach"].certified]
    return (
        f"Where a fixed weight was certified, `reach=True` was in {len(both)} of {len(possible)}; "
        f"its clean accuracy was then lower by {_mean(lost)} on the mean, {_most(lost)} at most, "
        f"and within {_CLOSE} in {sum(each <= _CLOSE for each in lost)} of {len(lost)}. Where none "
        f"was, it was in {alone} of {len(cases) - len(possible)}. Runs that were not certified "
        f"spent {_mean([one.epochs for one in hopeless])} epochs on the mean."
    )


def given_up(runs: Sequence[tuple[float, Sequence[Outcome]]], epochs: int) -> str:
    """How soon a run says that a floor is out of reach; a radius and its runs each."""
    parts = [
        f"{of[0].floor:g} at eps {eps:g} after {_mean([one.epochs for one in of])} of {epochs} "
        f"epochs on the mean, {_most([one.epochs for one in of])} at most "
        f"({sum(one.certified for one in of)} of {len(of)} certified)"
        for eps, of in runs
    ]
    return (
        f"Floors far beyond what any weight reaches ended in `CannotCertify`: {'; '.join(parts)}."
    )


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "-"


def _most(values: Sequence[float]) -> str:
    return f"{max(values):.3f}" if values else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table a radius, and whether the target is met."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    task = task_of(args.data_dir, args.epochs)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    methods: tuple[str | float, ...] = ("reach", *FIXED, "plain")
    posed = [
        (eps, floor, s) for eps, floors in task.floors.items() for floor in floors for s in seeds
    ]
    beyond = [(eps, floor, s) for eps, floor in task.beyond.items() for s in seeds]
    jobs = [(method, *each) for each in posed for method in methods]
    jobs += [("reach", *each) for each in beyond]
    kept = joblib.Memory(args.keep, verbose=0).cache(play)
    side_by_side = joblib.Parallel(args.processes, return_as="generator")
    outcomes = side_by_side(
        joblib.delayed(kept)(args.data_dir, args.epochs, method, eps=eps, floor=floor, seed=seed)
        for method, eps, floor, seed in jobs
    )
    found = dict(zip(jobs, track(outcomes, "runs", len(jobs)), strict=True))
    cases: dict[float, list[Case]] = {eps: [] for eps in task.floors}
    for each in posed:
        cases[each[0]].append({method: found[method, *each] for method in methods})
    hopeless = [
        (eps, [found["reach", eps, floor, seed] for seed in seeds])
        for eps, floor in task.beyond.items()
    ]
    tables = [
        table(of, f"{task.name}, eps {eps:g}, floors {', '.join(map(str, task.floors[eps]))}")
        for eps, of in cases.items()
    ]
    reached = verdict([case for of in cases.values() for case in of])
    said = f"{reached} {given_up(hopeless, task.epochs)}"
    for each in tables:
        Console().print(each)
    Console().print(said)
    if args.write:
        asked = [b for a, b in pairwise(["", *words]) if "--keep" not in (a, b)]
        head = f"`python -m benchmarks.knobs {shlex.join(asked)}`. {said}"
        publish(f"knobs-{task.name}", head, tables, args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.knobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", type=Path, help="folder of mnist.npz, which is used in place of digits")
    add("--seeds", type=int, default=3, help="of each floor (3)")
    add("--first-seed", type=int, default=0, help="others follow it (0)")
    add("--epochs", type=int, default=0, help="the budget of a run (20; MNIST 8)")
    add("--keep", type=Path, metavar="FOLDER", help="where runs are kept, to go on later")
    add("--processes", type=int, default=1, help="runs side by side (1)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
