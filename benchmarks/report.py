"""What the benchmarks of studies share: their arguments, their tasks and how a mean is printed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from benchmarks import tasks


def parser(name: str, description: str | None, methods: Iterable[str]) -> argparse.ArgumentParser:
    """The arguments that every comparison of samplers takes."""
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--methods", nargs="+", choices=list(methods), default=list(methods))
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--processes", type=int, default=2, help="studies side by side (2)")
    return result


def chosen_tasks(args: argparse.Namespace) -> list[tasks.Task]:
    """The tasks of `--split`, or the random subset of them that `--tasks` asks for."""
    every = tasks.load(args.split)
    if not args.tasks:
        return every
    picked = np.random.default_rng(0).permutation(len(every))[: args.tasks]
    return [every[i] for i in sorted(picked)]


def mean_and_error(per_task: NDArray[np.float64]) -> str:
    """The mean ± its standard error over tasks, each of which is a mean over seeds."""
    n = len(per_task)
    error = per_task.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return f"{per_task.mean():.3f} ± {error:.3f}"
