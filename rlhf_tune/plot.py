"""Pictures: of a study, of one training run, and of a fairness report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from rlhf_tune.errors import InvalidInputError, require

if TYPE_CHECKING:
    from optuna.study import Study

    from rlhf_tune.run.history import Recorded
    from rlhf_tune.safety.group_report import FairnessReport
    from rlhf_tune.study.looking import Settings

_STATE = ("learning_rate", "batch_size", "move", "rolled_back")


def plot_run(history: Recorded) -> Any:
    """Draw losses and metrics, learning rate and batch size, and the constraints of a run.

    Epochs before which a stretch was rolled back are marked by a vertical line, the epoch whose
    state was handed back by another; a dashed line is what a constraint asks for.

    Args:
        history: What a `fit` returned.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig("run.png")` writes it.

    Raises:
        InvalidInputError: If no epoch was committed.
        MissingExtraError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="demo")
    curves = history.history
    rates = curves.get("learning_rate")
    if not rates:
        raise InvalidInputError(
            "a history must have at least one committed epoch, but this one has none; "
            "train for more epochs"
        )
    knobs = [key for key in getattr(history, "knobs", ()) if key in curves]
    losses, metrics, constraints = _sorted({k: v for k, v in curves.items() if k not in knobs})
    panels = [("loss", losses), ("metrics", metrics), ("constraints", constraints)]
    panels += [("weights", knobs)]
    shown = [(title, keys) for title, keys in panels if keys]
    epochs = range(1, len(rates) + 1)
    bounds, returned = getattr(history, "bounds", {}), getattr(history, "returned", None)
    figure = figures.Figure(figsize=(8, 2.4 * (len(shown) + 1)), layout="constrained")
    axes = figure.subplots(len(shown) + 1, 1, sharex=True)
    for panel, (title, keys) in zip(axes, shown, strict=False):
        for key in keys:
            (line,) = panel.plot(epochs, curves[key], marker=".", label=key)
            if title == "constraints" and key in bounds:
                asked = {"color": line.get_color(), "linestyle": "--", "linewidth": 1.0}
                panel.axhline(bounds[key], label=f"{key}: asked", **asked)
        panel.set_ylabel(title)
        panel.legend(loc="best", fontsize="small")
    _draw_state(axes[-1], epochs, curves)
    for panel in axes:
        for epoch, discarded in zip(epochs, curves.get("rolled_back", ()), strict=False):
            if discarded:
                panel.axvline(epoch - 0.5, color="0.7", linestyle=":")
        if returned is not None:
            panel.axvline(returned + 1, color="tab:green", alpha=0.5, linewidth=2.5)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    told = "" if returned is None else "; green: the state handed back"
    axes[-1].set_xlabel(f"committed epoch (dotted: a stretch was rolled back before{told})")
    return figure


def plot_study(study: Study, **settings: Unpack[Settings]) -> Any:
    """Draw where the trials of a study lay, what they gave, what they cost, and what was risked.

    The plane is that of the two ordered parameters that matter most (PED-ANOVA, where there are
    more than two); one parameter is drawn against the value; without any the course stands alone.
    Each constraint has a panel of its costs, with a line at 0, and P(safe) is what was predicted
    before a trial. Trials without a result stand at the bottom.

    Args:
        study: Of any sampler, in memory or loaded.
        settings: As of `rlhf_tune.recommend`.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig("study.png")` writes it.

    Raises:
        InvalidInputError: If no trial has ended, it is no study, or has several objectives.
        MissingExtraError: If matplotlib is not installed.
    """
    from rlhf_tune.study import looking, picture  # the picture of a run needs nothing of a study

    return picture.draw(study, looking.agent_of(study, **settings))


def plot_fairness(report: FairnessReport) -> Any:
    """Draw the gaps of every level with their bounds, a panel for each metric.

    Args:
        report: What `rlhf_tune.safety.fairness_report` returned.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig("fairness.png")` writes it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="demo")
    metrics, levels = list(report.macro), list(report.by_level)
    size = (3.2 * len(metrics) + 1, 0.4 * len(levels) + 1.4)
    figure = figures.Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for row, level in enumerate(levels):
            gap = report.by_level[level][metric]
            if gap.defined:
                low, high = gap.interval
                reach = [[gap.value - low], [high - gap.value]]
                worst = level == report.worst_level[metric]
                color = "crimson" if worst else "tab:blue"
                panel.errorbar([gap.value], [row], xerr=reach, fmt="o", color=color, capsize=3)
        panel.set(xlabel=metric.replace("_", " "), xlim=(0, None))
        panel.grid(axis="x", color="0.92")
    labels = [level if isinstance(level, str) else " x ".join(level) for level in levels]
    panels[0].set_yticks(range(len(levels)), labels)
    panels[0].invert_yaxis()
    return figure


def _sorted(curves: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[str], list[str]]:
    """The keys of losses, of metrics (which come with a validation twin), and of constraints."""
    keys = [key for key in curves if key not in _STATE]
    losses = [key for key in keys if key.removeprefix("val_") == "loss"]
    metrics = [key for key in keys if key not in losses and _has_twin(key, curves)]
    return losses, metrics, [key for key in keys if key not in (*losses, *metrics)]


def _has_twin(key: str, curves: Mapping[str, Sequence[Any]]) -> bool:
    return key.startswith("val_") or f"val_{key}" in curves


def _draw_state(axes: Any, epochs: range, curves: Mapping[str, Sequence[Any]]) -> None:
    axes.step(epochs, curves["learning_rate"], where="mid", color="C0", label="learning rate")
    axes.set(ylabel="learning rate", yscale="log")
    if "batch_size" in curves:
        sizes = axes.twinx()
        sizes.step(epochs, curves["batch_size"], where="mid", color="C1", label="batch size")
        sizes.set_ylabel("batch size", color="C1")
        sizes.set_yscale("log", base=2)
