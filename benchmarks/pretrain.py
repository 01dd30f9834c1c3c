"""Learn the prior that the package ships, from the recorded train tasks.

python -m benchmarks.pretrain        # writes rlhf_tune/pretrained/prior.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import tasks
from rlhf_tune.policy.pretrain import Recorded, learn
from rlhf_tune.prior import SHIPPED, Prior, save


def recorded(measure: str, task: tasks.Task) -> Recorded:
    """A measure of a task's final models: 1 is the gap between a guess and the best cell."""
    values = (
        -tasks.normalised(task.val_loss[..., -1], task.chance)
        if measure == "performance"
        else task.fgsm_accuracy[..., -1].astype(np.float64)
    )
    rates, sizes = np.log10(task.learning_rates), np.log10(task.batch_sizes)
    return Recorded(task.family, rates, sizes, values)


def priors(chosen: Iterable[tasks.Task]) -> dict[str, Prior]:
    """The priors of both measures."""
    kept = list(chosen)
    return {
        measure: learn(measure, [recorded(measure, task) for task in kept])
        for measure in ("performance", "robustness")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Learn and save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--out", type=Path, default=SHIPPED, help="(%(default)s)")
    args = parser.parse_args(argv)
    train = tasks.load("train")
    families = sorted({task.family for task in train})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"tasks": str(len(train)), "families": " ".join(families)}
    save(priors(train), args.out, about)
    print(f"{len(train)} tasks of {len(families)} families: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
