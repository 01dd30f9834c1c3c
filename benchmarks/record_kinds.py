"""Record the scale of each problem of `benchmarks.kinds`: best and median of random settings.

The problems themselves are trained live; only what 0 and 1 stand for is recorded, so that nothing
has to be computed at load. It takes about 15 s a problem; what is recorded already stays, also
after an interrupt. Examples:

    python -m benchmarks.record_kinds                  # those that are not recorded yet
    python -m benchmarks.record_kinds --kinds four     # of one kind
    python -m benchmarks.record_kinds --again          # all anew, as after a change of training
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.samplers import RandomSampler

from benchmarks.kinds.catalogue import KINDS, specs
from benchmarks.kinds.problems import N_SETTINGS, SCALES, Scale, Spec, measured
from benchmarks.kinds.spaces import SPACES
from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.progress import bars
from rlhf_tune.threads import one_thread


def scale(spec: Spec, settings: int = N_SETTINGS) -> Scale:
    """Train random settings of a problem's space.

    Raises:
        InvalidInputError: If the problem tells no settings apart, or none is feasible.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = RandomSampler(seed=zlib.crc32(f"scale of {spec.name}".encode()))
    study, started = optuna.create_study(sampler=sampler), time.process_time()
    found = [measured(spec, study.ask(SPACES[spec.space]).params) for _ in range(settings)]
    seconds = (time.process_time() - started) / settings
    measures = np.array([each.measure.mean() for each in found])
    costs = np.array([each.cost.mean() for each in found])
    bound = float(np.percentile(costs, spec.percentile)) if spec.kind == "costs" else 0.0
    feasible = costs <= bound
    median = float(np.median(measures))
    best = float(measures[feasible].min(initial=np.inf))
    if not best < median:
        raise InvalidInputError(
            f"a problem's best feasible setting must be better than its median, but {spec.name!r} "
            f"has {best:g} and {median:g}; change the problem"
        )
    return Scale(best, median, bound, float(feasible.mean()), round(seconds, 4))


def record(todo: Sequence[Spec], path: Path, again: bool = False) -> int:
    """Record problems that the file does not hold yet, and return how many those were."""
    known = json.loads(path.read_text()) if path.exists() else {}
    missing = [spec for spec in todo if again or spec.name not in known]
    with bars() as shown, one_thread():
        bar = shown.add_task("", total=len(missing))
        for spec in missing:
            shown.update(bar, description=spec.name)
            known[spec.name] = scale(spec)._asdict()
            files.write(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
            shown.advance(bar)
    return len(missing)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    chosen = [spec for kind in args.kinds for spec in specs()[kind]]
    new = record(chosen, args.out, args.again)
    print(f"{new} recorded, {len(chosen) - new} were there already; {args.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.record_kinds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which problems (all)")
    add("--out", type=Path, default=SCALES, help="where scales go (%(default)s)")
    add("--again", action="store_true", help="those that are recorded, too")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
