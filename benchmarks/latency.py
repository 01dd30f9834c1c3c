"""How long a sampler takes to suggest a trial, by the number of past trials, in memory.

All samplers are measured side by side in one run, since machines differ:

    python -m benchmarks.latency
    python -m benchmarks.latency --past 10 100 --repeats 5
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import create_trial
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, publish
from rlhf_tune import DQNSampler
from rlhf_tune.progress import track

SPACE = {
    "learning_rate": FloatDistribution(1e-5, 1.0, log=True),
    "batch_size": IntDistribution(16, 512, log=True),
}


def samplers() -> dict[str, BaseSampler]:
    """The samplers to compare, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return {
            "RandomSampler": RandomSampler(seed=0),
            "TPESampler": TPESampler(seed=0),
            "GPSampler": GPSampler(seed=0),
            "DQNSampler": DQNSampler(seed=0),
            "DQNSampler, policy='dqn'": DQNSampler(policy="dqn", seed=0),
        }


def study_with(past: int, sampler: BaseSampler) -> optuna.Study:
    """A study in memory with so many random trials of a noisy bowl."""
    rng = np.random.default_rng(0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(past):
        rate, batch = 10 ** rng.uniform(-5, 0), int(2 ** rng.uniform(4, 9))
        value = (math.log10(rate) + 2) ** 2 + 0.1 * math.log2(batch) + 0.1 * rng.normal()
        params = {"learning_rate": rate, "batch_size": batch}
        study.add_trial(create_trial(params=params, distributions=SPACE, value=value))
    return study


def milliseconds(study: optuna.Study, repeats: int) -> list[float]:
    """The time of each of `repeats` suggestions, each followed by its result; one warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        trial = study.ask(SPACE)
        times.append(1e3 * (time.perf_counter() - began))
        study.tell(trial, 5.0)
    return times[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the median latency and its quartiles."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--past", type=int, nargs="+", default=[10, 100, 1000], help="past trials")
    parser.add_argument("--samplers", nargs="+", choices=list(samplers()), help="which (all)")
    parser.add_argument("--repeats", type=int, default=20, help="suggestions to time (20)")
    add_write(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table(
        "sampler", *(f"{n} trials" for n in args.past), title="ms a suggestion: median (quartiles)"
    )
    for name in track(args.samplers or list(samplers()), "samplers"):
        rows = [milliseconds(study_with(n, samplers()[name]), args.repeats) for n in args.past]
        cells = [np.quantile(row, [0.25, 0.5, 0.75]) for row in rows]
        table.add_row(name, *(f"{q[1]:.1f} ({q[0]:.1f}-{q[2]:.1f})" for q in cells))
    Console().print(table)
    if args.write:
        head = f"`python -m benchmarks.latency {shlex.join(words)}`: in memory."
        publish("latency", head, [table], args.write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
