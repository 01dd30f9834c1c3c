"""What comparisons of methods come to: tables of regret, rank, retraining and wins, and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import rankdata

from benchmarks.common.report import mean_and_error, standard_error
from benchmarks.studies.studies import Runs, checkpoints
from rlhf_tune import files

Floats = NDArray[np.float64]
Results = Mapping[str, Runs]

GOOD = 0.03
"""The regret that counts as good."""


class Family(NamedTuple):
    """A method against a rival after `n` trials, over the tasks of a family.

    Attributes:
        name: The family.
        n: Trials.
        difference: The mean of the paired difference in regret; negative: the method is better.
        error: Its standard error over the tasks; 0 for a single task.
    """

    name: str
    n: int
    difference: float
    error: float

    @property
    def verdict(self) -> int:
        """-1 lost, 1 won, each by more than one standard error; 0 a tie."""
        return -int(np.sign(self.difference)) * (abs(self.difference) > self.error)


def after(runs: Runs, n: int) -> Floats:
    """[P] the regret of each problem after `n` trials, the mean over its studies."""
    return np.asarray(runs.regret[..., n - 1].mean(axis=1))


def by_family(per_task: Floats, families: Sequence[str]) -> Floats:
    """[F] the means within families of a figure [P]."""
    names = np.array(families)
    return np.array([per_task[names == name].mean() for name in np.unique(names)])


def regret(results: Results, families: Sequence[str]) -> Table:
    """Mean, standard error over tasks, and in brackets that over families."""
    points = _checkpoints(results)
    title = "regret: mean ± s.e. over tasks (over data-set families)"
    table = Table("method", "studies a task", *(f"after {n}" for n in points), title=title)
    for method, runs in results.items():
        cells = (_mean_and_errors(after(runs, n), families) for n in points)
        table.add_row(method, str(runs.regret.shape[1]), *cells)
    return table


def ranks(results: Results) -> Table:
    """Mean rank over tasks, and the median number of trials to a good regret."""
    points = _checkpoints(results)
    heads = (*(f"rank after {n}" for n in points), f"trials to {GOOD:g}")
    table = Table("method", *heads, title=f"mean rank of {len(results)}; median trials to {GOOD:g}")
    ranked = [
        rankdata([after(runs, n) for runs in results.values()], axis=0).mean(axis=1) for n in points
    ]
    for i, (method, runs) in enumerate(results.items()):
        table.add_row(method, *(f"{column[i]:.1f}" for column in ranked), _trials_to(runs))
    return table


def retrained(results: Results, families: Sequence[str]) -> Table:
    """The value of what is recommended, trained again."""
    points = _checkpoints(results)
    title = "regret of the recommendation, retrained with a seed not seen there"
    table = Table("method", *(f"after {n}" for n in points), title=title)
    for method, runs in results.items():
        columns = runs.retrained.mean(axis=1).T
        table.add_row(method, *(_mean_and_errors(column, families) for column in columns))
    return table


def against(ours: Floats, theirs: Floats, families: Sequence[str], n: int) -> list[Family]:
    """One method's regret [P] against another's, family by family."""
    names = np.array(families)
    found = []
    for name in np.unique(names):
        difference = (ours - theirs)[names == name]
        error = standard_error(difference) if len(difference) > 1 else 0.0
        found.append(Family(str(name), n, float(difference.mean()), error))
    return found


def duels(
    results: Results, families: Sequence[str], ours: str, rivals: Sequence[str]
) -> dict[str, list[list[Family]]]:
    """Of `ours` against each rival, the families at each checkpoint."""
    return {
        rival: [
            against(after(results[ours], n), after(results[rival], n), families, n)
            for n in _checkpoints(results)
        ]
        for rival in rivals
    }


def wins(found: Mapping[str, list[list[Family]]], ours: str) -> Table:
    """Families won, tied and lost by `ours` against each rival."""
    heads = [f"after {families[0].n}" for families in next(iter(found.values()))]
    title = (
        f"families won / tied / lost by {ours!r}, by more than one s.e. of the paired difference"
    )
    table = Table("against", *heads, title=title)
    for rival, columns in found.items():
        verdicts = [[family.verdict for family in families] for families in columns]
        table.add_row(rival, *(" / ".join(str(vs.count(v)) for v in (1, 0, -1)) for vs in verdicts))
    return table


def closest(results: Results, ours: str, rivals: Sequence[str]) -> Table:
    """Where `ours` compares worst with each rival, at any number of trials from 5 on.

    Negative: `ours` is better by so much on average over tasks, at every number of trials.
    """
    first = _checkpoints(results)[0]
    title = f"regret of {ours!r} less the rival's, where that is largest from {first} trials on"
    table = Table("against", "after", "difference ± s.e.", title=title)
    for rival in rivals:
        per_task = (results[ours].regret.mean(axis=1) - results[rival].regret.mean(axis=1)).T
        worst = first - 1 + int(per_task[first - 1 :].mean(axis=1).argmax())
        table.add_row(rival, str(worst + 1), mean_and_error(per_task[worst]))
    return table


def losses(found: Mapping[str, list[list[Family]]], ours: str) -> Table:
    """Where `ours` lost."""
    title = f"families that {ours!r} lost: by how much regret"
    table = Table("against", "after", "family", "regret ± s.e.", title=title)
    for rival, columns in found.items():
        for name, n, difference, error in (f for fs in columns for f in fs if f.verdict == -1):
            table.add_row(rival, str(n), name, f"{difference:.3f} ± {error:.3f}")
    if not table.row_count:
        table.add_row("none", "", "", "")
    return table


def plot(results: Results, path: Path) -> None:
    """Draw the mean regret over trials, with bands of one standard error over tasks."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    styles = product(("-", "--"), mpl.color_sequences["tab10"])
    for (method, runs), (dash, color) in zip(results.items(), styles, strict=False):
        per_task = runs.regret.mean(axis=1)
        mean, error = per_task.mean(axis=0), per_task.std(axis=0, ddof=1) / len(per_task) ** 0.5
        trials = np.arange(1, len(mean) + 1)
        axes.plot(trials, mean, dash, color=color, label=method)
        low = np.maximum(mean - error, mean / 4)  # a logarithm has no place for 0
        axes.fill_between(trials, low, mean + error, color=color, alpha=0.1, linewidth=0)
    axes.set(xlabel="trials", ylabel="regret of the best trial so far", yscale="log")
    axes.legend(ncols=2, fontsize="small")
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "regret"}),
        files.whole(path) as partial,
    ):
        figure.savefig(partial, metadata={"Date": None})


def _checkpoints(results: Results) -> list[int]:
    return checkpoints(next(iter(results.values())).regret.shape[-1])


def _mean_and_errors(per_task: Floats, families: Sequence[str]) -> str:
    inner = standard_error(by_family(per_task, families))
    return f"{per_task.mean():.3f} ± {standard_error(per_task):.3f} ({inner:.3f})"


def _trials_to(runs: Runs) -> str:
    good = runs.regret <= GOOD
    first = np.where(good.any(axis=-1), good.argmax(axis=-1) + 1.0, np.inf)
    median = float(np.median(first))
    return f"{median:g}" if math.isfinite(median) else f"> {runs.regret.shape[-1]}"
