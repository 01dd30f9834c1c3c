"""What comparisons teach: of outcomes, in preferential studies, and agents in training runs.

    python -m benchmarks.feedback
    python -m benchmarks.feedback --choices yogurt.csv     # real choices, held out by person
    python -m benchmarks.feedback --quick

People are simulated: their answers follow a utility with logistic noise.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, mean_and_error, publish
from benchmarks.studies import preferring
from rlhf_tune.progress import track

PARTS = ("questions", "models", "annotators", "studies", "agents")
_DEVIATIONS = (3.0, 5.0, 8.0)
_AGENTS = ("stay", "random", "A2C", "PPO", "DQN")


def questions(seeds: int) -> Table:
    """Questions that are chosen beside drawn ones."""
    title = "pair accuracy after 20 answers about 60 trials of five outcomes"
    table = Table(
        *("deviation of the utilities", "20 chosen", "20 drawn"),
        title=title,
    )
    for deviation in track(_DEVIATIONS, "questions"):
        cells = [
            [preferring.ordered(seed, deviation, chosen=way) for seed in range(seeds)]
            for way in (True, False)
        ]
        table.add_row(f"{deviation:g}", *(mean_and_error(np.array(cell)) for cell in cells))
    return table


def models(seeds: int) -> Table:
    """Reward models of many comparisons beside an oracle."""
    table = Table(
        *("utility", "model", "held-out accuracy", "of an oracle", "calibration error"),
        "right where certain (above .95)",
        title="reward models of 1,500 noisy pairs",
    )
    for name, utility in preferring.UTILITIES.items():
        for what, members in (("linear", 0), ("ensemble", 5)):
            rows = np.array([preferring.taught(utility, members, s) for s in range(seeds)])
            table.add_row(name, what, *(mean_and_error(column) for column in rows.T))
    return table


def annotators(seeds: int) -> Table:
    """Two honest annotators, one who flips coins, one who answers the wrong way."""
    table = Table("", "correlation with the truth", title="400 answers of four annotators")
    rows = np.array([preferring.correlations(seed) for seed in range(seeds)])
    for name, column in zip(("weighted by reliability", "pooled"), rows.T, strict=True):
        table.add_row(name, mean_and_error(column))
    return table


def studies(seeds: int) -> Table:
    """Preferential studies over a mixed space."""
    table = Table(
        *("method", "median regret", "mean regret"),
        title=f"preferential studies, 30 noisy comparisons, {seeds} seeds",
    )
    for name in track(list(preferring.SAMPLERS), "studies"):
        found = np.array([preferring.regret(name, seed) for seed in range(seeds)])
        table.add_row(name, f"{np.median(found):.3f}", mean_and_error(found))
    return table


def agents(seeds: int) -> Table:
    """Agents that learn on people's utility beside those that learn on the metric."""
    from benchmarks.runs.preferring import true_utility_of

    table = Table(
        *("agent", "learned utility", "metric alone"),
        title="what test runs are worth to people, by the reward that the agent learned on",
    )
    for name in track(_AGENTS, "agents"):
        cells = []
        for learned in (True, False):
            many = 1 if name == "stay" else min(seeds, 3)
            found = [true_utility_of(name, learned=learned, seed=s) for s in range(many)]
            cells.append(f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        table.add_row(name, *cells)
    return table


def real(path: Path, seeds: int) -> Table:
    """Real choices, learned from some people and asked of others."""
    title = "real choices: pair accuracy on people whose choices taught nothing"
    table = Table("method", "accuracy", title=title)
    rows = [preferring.held_out(path, seed) for seed in range(seeds)]
    for name in rows[0]:
        table.add_row(name, mean_and_error(np.array([row[name] for row in rows])))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.feedback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--on", nargs="+", choices=PARTS, default=list(PARTS), help="which (all)")
    parser.add_argument("--choices", type=Path, metavar="FILE", help="yogurt.csv, a scanner panel")
    parser.add_argument("--seeds", type=int, default=12, help="repetitions (12)")
    parser.add_argument("--quick", action="store_true", help="two seeds, and no agents")
    add_write(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds, on = (2, set(args.on) - {"agents"}) if args.quick else (args.seeds, set(args.on))
    makers: dict[str, Callable[[int], Table]] = {
        "questions": questions,
        "models": models,
        "annotators": annotators,
        "studies": studies,
        "agents": agents,
    }
    tables = {part: makers[part](seeds) for part in PARTS if part in on}
    if args.choices:
        tables["choices"] = real(args.choices, seeds)
    shown = shlex.join(w if not w.endswith(".csv") else Path(w).name for w in words)
    for part, table in tables.items():
        Console().print(table)
        if args.write:
            head = f"`python -m benchmarks.feedback {shown}`"
            publish(f"feedback-{part}", head, [table], args.write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
