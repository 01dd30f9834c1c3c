"""The picture of a run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from rlhf_tune import files
from rlhf_tune.errors import require

FILE = "trials.png"

Summary = Mapping[str, Any]


def draw(summary: Summary, path: Path) -> None:
    """Draw the trials over the plane, and the course of the best feasible loss, as a PNG.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="plot")
    figure = figures.Figure(figsize=(15, 5.5), layout="constrained")  # drawn by Agg, no display
    plane, course, risk = figure.subplots(1, 3, width_ratios=(5, 3, 3))
    _draw_plane(figure, plane, summary)
    _draw_course(course, summary)
    _draw_risk(risk, summary)
    settings = summary["settings"]
    figure.suptitle(
        f"{summary['name']} ({settings['framework']}): {summary['verdict']}; FGSM accuracy at eps "
        f"{settings['eps']:g} to be at least {settings['min_robust_accuracy']:g}",
        parse_math=False,  # a name may have a dollar
    )
    entries = {
        label: handle
        for axes in (course, plane, risk)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=6, markerscale=0.7
    )
    with files.whole(path) as partial:
        figure.savefig(partial, dpi=110)


def _draw_plane(figure: Any, axes: Any, summary: Summary) -> None:
    axes.set(
        title="Trials, by number",
        xlabel="learning rate",
        ylabel="batch size",
        xscale="log",
        xlim=(7e-6, 1.5e-1),
        ylim=(10, 330),
    )
    axes.set_yscale("log", base=2)
    ticks = (16, 32, 64, 128, 256)
    axes.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if summary["replayed"]:
        below = _place(summary["replayed"]["settings"])
        axes.scatter(*below, s=330, c="mistyrose", marker="s", label="recorded below the floor")
    if summary["predicted_unsafe"]:
        unsafe = _place(summary["predicted_unsafe"])
        axes.scatter(*unsafe, s=12, c="0.6", marker="s", label="masked: predicted unsafe")
    for state, look in _LOOKS.items():
        rows = [row for row in summary["trials"] if row["state"] == state]
        if rows:
            axes.scatter(*_place(rows), **look, label=state, zorder=6)
    feasible = [row for row in summary["trials"] if row["state"] == "feasible"]
    if feasible:
        dots = axes.scatter(
            *_place(feasible),
            c=[row["loss"] for row in feasible],
            s=80,
            cmap="viridis_r",
            edgecolors="black",
            label="feasible",
            zorder=4,
        )
        figure.colorbar(dots, ax=axes, label="validation loss of the feasible")
    if summary["recommended"]:
        chosen = _place([summary["recommended"]])
        look = {"facecolors": "none", "edgecolors": "crimson", "linewidths": 1.8}
        axes.scatter(*chosen, marker="*", s=520, **look, label="recommended", zorder=5)
    _number(axes, summary["trials"])


_LOOKS: dict[str, dict[str, Any]] = {
    "unsafe": {"c": "crimson", "marker": "x", "s": 60},
    "failed": {"c": "black", "marker": "1", "s": 90},
}


def _place(rows: list[Mapping[str, Any]]) -> tuple[list[float], list[int]]:
    return [row["learning_rate"] for row in rows], [row["batch_size"] for row in rows]


def _number(axes: Any, trials: list[Mapping[str, Any]]) -> None:
    """Write the numbers of all trials at a point beside it."""
    points: dict[tuple[float, int], list[str]] = {}
    for row in trials:
        point = (row["learning_rate"], row["batch_size"])
        points.setdefault(point, []).append(str(row["number"]))
    for point, numbers in points.items():
        text = "\n".join(numbers)
        axes.annotate(
            text, point, (0, -9), textcoords="offset points", ha="center", va="top", fontsize=8
        )


def _draw_course(axes: Any, summary: Summary) -> None:
    axes.set(title="Course", xlabel="trial", ylabel="validation loss", yscale="log")
    axes.grid(color="0.92", which="both")
    axes.set_axisbelow(True)
    trials = summary["trials"]
    looks = _LOOKS | {"feasible": {"c": "tab:green", "marker": "o", "s": 30}}
    for state, look in looks.items():
        rows = [row for row in trials if row["state"] == state and row["loss"] is not None]
        if rows:
            numbers = [row["number"] for row in rows]
            axes.scatter(numbers, [row["loss"] for row in rows], **look, label=state)
    lowest: float | None = None
    numbers, course = [], []
    for row in trials:
        if row["state"] == "feasible":
            lowest = row["loss"] if lowest is None else min(lowest, row["loss"])
        if lowest is not None:
            numbers.append(row["number"])
            course.append(lowest)
    if course:
        axes.step(numbers, course, where="post", color="tab:green", label="best feasible so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:.1g}")


def _draw_risk(axes: Any, summary: Summary) -> None:
    """Trials below the floor so far: of this run, and of others on a recorded table."""
    axes.set(title="Trials below the floor so far", xlabel="trial", ylabel="trials")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    replayed = summary["replayed"]
    styles = {"random search": ("0.55", ":"), "TPE": ("tab:blue", "--")}
    for name, counts in replayed["below"].items() if replayed else ():
        color, dash = styles[name]
        label = f"{name}, replayed on a recorded table (mean)"
        axes.plot(range(len(counts)), counts, dash, color=color, label=label)
    below = [row["state"] == "unsafe" for row in summary["trials"]]
    numbers = [row["number"] for row in summary["trials"]]
    axes.step(numbers, list(accumulate(below)), where="post", color="crimson", label="this run")
    axes.set_ylim(0, None)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
