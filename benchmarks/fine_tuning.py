"""Which layers to fine-tune, and when to stop: the policies of `fine_tune` beside plain methods.

A small network is trained on digits; then the digits shift in one of five ways, and 50 labels of
them (and 50 for validation) are there. No policy saw digits or these shifts before:

    python -m benchmarks.fine_tuning                             # embedded digits
    python -m benchmarks.fine_tuning --data-dir data             # MNIST
    python -m benchmarks.fine_tuning --agents                    # that learn from scratch
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import groupby, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, mean_and_error, publish, standard_error
from benchmarks.layers import agents, shifts
from benchmarks.layers.baselines import (
    BATCH,
    EPOCHS,
    RATES,
    Outcome,
    baselines,
    layers_in,
    play,
    score,
)
from benchmarks.layers.shifts import SHIFTS, Target
from rlhf_tune.fine_tuning.driver import KNOWN
from rlhf_tune.fine_tuning.groups import divide, layers_of
from rlhf_tune.fine_tuning.policies import Agent, load
from rlhf_tune.progress import track
from rlhf_tune_integrations.pytorch import fine_tune

BUDGET = 3.0
EVERY = "each group, full and LP-FT at each rate"
RATE = 1e-2
"""Of the policies; the search tries half a decade around it too. The best on source tasks."""

Found = Mapping[tuple[str, int], Mapping[str, Outcome]]
"""By target and seed, then by method."""


class Greedy:
    """Tries each group for one decision from the state in hand, and keeps to the best of them."""

    def __init__(self, groups: int, operations: Sequence[str]) -> None:
        self._tune = operations.index("tune")
        self._back = operations.index("return")
        self._groups, self._operations = groups, len(operations)
        self._gains: list[float] = []
        self._number = 0

    def act(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
        """A probe, a return, or the winner."""
        number, self._number = self._number, self._number + 1
        group, returns = divmod(number, 2)
        if returns and group < self._groups:
            self._gains.append(float(observation[3]))  # gain since the start
        if group < self._groups:
            return group * self._operations + (self._back if returns else self._tune)
        return int(np.argmax(self._gains)) * self._operations + self._tune


def tuned(model: torch.nn.Module, target: Target, policy: str | Agent, seed: int) -> Outcome:
    """What `fine_tune` makes of a target."""
    model = copy.deepcopy(model)
    found = fine_tune(
        model,
        *target.train,
        validation_data=target.validation,
        optimizer=torch.optim.Adam(model.parameters(), RATE),
        budget=BUDGET,
        epochs=EPOCHS,
        batch_size=BATCH,
        policy=policy,
        verbose=0,
        seed=seed,
    )
    steps = [f"{each.operation} {each.group}" for each in found.schedule]
    return Outcome(
        score(model, target.test)[0],
        score(model, target.validation)[0],
        found.costs["epochs"],
        found.costs["weighted"],
        found.costs["switches"],
        ", ".join(steps),
    )


def compare(
    job: tuple[int, int],
    kind: str,
    data_dir: Path | None,
    networks: Sequence[Path],
    plain: bool,
) -> tuple[tuple[str, int], dict[str, Outcome]]:
    """All methods on one target."""
    torch.set_num_threads(1)
    number, seed = job
    source, every = shifts.targets(shifts.rows(data_dir), seed)
    model, target = shifts.pretrained(kind, source, seed), every[number]
    start = score(model, target.test)[0], score(model, target.validation)[0]
    found = {"none": Outcome(*start, 0.0, 0.0)}
    operations = [operation.name for operation in KNOWN]
    policies = {path.stem: load(path, operations) for path in networks} or {"dqn": "dqn"}
    for name, policy in {"search": "search", **policies}.items():
        found[name] = tuned(model, target, policy, seed)
    if not plain:
        return (target.name, seed), found
    groups = divide(layers_of(model).units)
    names = [unit.name for unit in layers_of(model).units]
    numbers = {
        group: [names.index(unit) for unit in held]
        for group, held in groups.items()
        if group != "all"
    }
    for name, plan in baselines(len(layers_in(model)), numbers).items():
        found[name] = play(model, target, plan, seed)
    found[EVERY] = replace(
        max((found[name] for name in ("full", *numbers, "LP-FT")), key=lambda o: o.validation),
        epochs=EPOCHS * (len(numbers) + 2) * len(RATES),
    )
    found["greedy probe"] = tuned(model, target, Greedy(len(groups), operations), seed)
    return (target.name, seed), found


def accuracies(found: Found) -> Table:
    """Test accuracy by target, the mean over all, and what it cost."""
    targets = [name for name in SHIFTS if any(key[0] == name for key in found)]
    methods = list(next(iter(found.values())))
    against = "full" if "full" in methods else "none"
    table = Table(
        "method",
        *targets,
        "mean",
        f"less than {against}, at most",
        "epochs",
        "weighted",
        "switches",
        title="Accuracy on test rows; epochs, epochs x share of the weights, switches",
    )
    for method in methods:
        by_target = [_column(found, name, method) for name in targets]
        below = max(
            float((_column(found, name, against) - column).mean())
            for name, column in zip(targets, by_target, strict=True)
        )
        outcomes = [outcomes[method] for outcomes in found.values()]
        table.add_row(
            method,
            *(mean_and_error(column) for column in by_target),
            mean_and_error(np.mean(by_target, axis=0)),
            f"{max(0.0, below):.3f}",
            *(
                f"{np.mean([getattr(o, name) for o in outcomes]):.1f}"
                for name in ("epochs", "weighted", "switches")
            ),
        )
    return table


def stability(found: Found) -> Table:
    """The mean over the targets, seed by seed."""
    seeds = sorted({seed for _, seed in found})
    table = Table("method", *map(str, seeds), "lowest", "highest", title="Mean accuracy by seed")
    for method in next(iter(found.values())):
        means = [
            float(np.mean([o[method].accuracy for (_, of), o in found.items() if of == seed]))
            for seed in seeds
        ]
        table.add_row(method, *(f"{m:.3f}" for m in (*means, min(means), max(means))))
    return table


def schedules(found: Found, method: str) -> Table:
    """What a policy did with the first network, target by target."""
    table = Table("target", "what was done", "accuracy", title=f"The schedules of {method}")
    first = min(seed for _, seed in found)
    for (target, seed), outcomes in found.items():
        if seed == first:
            steps = groupby(outcomes[method].schedule.split(", "))
            words = [f"{step} x{len(list(same))}" for step, same in steps]
            before, after = outcomes["none"].accuracy, outcomes[method].accuracy
            table.add_row(target, ", ".join(words), f"{before:.3f} to {after:.3f}")
    return table


def ahead(found: Found, method: str, of: str = "search") -> str:
    """What a method gains on another, paired, over seeds."""
    gains = np.mean([_column(found, n, method) - _column(found, n, of) for n in SHIFTS], axis=0)
    verdict = "ahead of" if gains.mean() > standard_error(gains) else "not ahead of"
    return f"`{method}` gains {mean_and_error(gains)} on `{of}`: **{verdict}** it."


def _column(found: Found, target: str, method: str) -> NDArray[np.float64]:
    return np.array([o[method].accuracy for key, o in sorted(found.items()) if key[0] == target])


def _agents(args: argparse.Namespace, words: Sequence[str], seeds: Sequence[int]) -> int:
    """Compare agents that learn from scratch."""
    jobs = [(name, seed, args.steps) for name in agents.names() for seed in seeds]
    with ProcessPoolExecutor(args.processes) as pool:
        scores = list(track(pool.map(agents.trial, jobs), "agents", len(jobs)))
    rows = np.array(scores).reshape(-1, len(seeds))
    table = agents.summary(dict(zip(agents.names(), rows, strict=True)), args.steps)
    head = f"`python -m benchmarks.fine_tuning {' '.join(words)}`: mean ± s.e. over tasks."
    Console().print(head, table)
    if args.write:
        publish("fine_tuning-agents", head, [table], args.write)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", type=Path, help="a folder with mnist.npz, in place of the embedded digits")
    add("--network", choices=["mlp", "cnn"], default="mlp", help="what is fine-tuned (mlp)")
    add("--seeds", type=int, default=5, help="networks and draws of rows (5)")
    add("--first-seed", type=int, default=0, help="of them (0)")
    add("--policies", nargs="+", type=Path, default=[], help="networks in place of the shipped one")
    add("--policies-only", action="store_true", help="without the plain methods")
    add("--processes", type=int, default=2, help="targets side by side (2)")
    add_write(parser)
    add("--agents", action="store_true", help="agents that learn from scratch, on a source task")
    add("--steps", type=int, default=300, help="with --agents: decisions of learning (300)")
    args = parser.parse_args(argv)
    words = list(sys.argv[1:] if argv is None else argv)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if args.agents:
        return _agents(args, words, seeds)
    jobs = list(product(range(len(SHIFTS)), seeds))
    work = partial(
        compare,
        kind=args.network,
        data_dir=args.data_dir,
        networks=args.policies,
        plain=not args.policies_only,
    )
    with ProcessPoolExecutor(args.processes) as pool:
        found = dict(track(pool.map(work, jobs), "targets", len(jobs)))
    learned = [path.stem for path in args.policies] or ["dqn"]
    tables = [accuracies(found), stability(found), *(schedules(found, name) for name in learned)]
    verdicts = [ahead(found, name) for name in learned]
    what = "MNIST" if args.data_dir else "digits"
    head = (
        f"`python -m benchmarks.fine_tuning {' '.join(words)}`: {what}, {args.network}; "
        f"mean ± s.e. over {args.seeds} seeds.\n\n" + "\n".join(verdicts)
    )
    Console().print(head, *tables)
    if args.write:
        name = f"fine_tuning-{what.lower()}-{args.network}"
        name += "-policies" if args.policies_only else ""
        publish(name, head, tables, args.write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
