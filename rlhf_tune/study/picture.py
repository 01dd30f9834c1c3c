"""The picture of a study: where its trials lay, what they gave, and what was risked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from rlhf_tune.errors import CannotCertify, InvalidInputError, plain, require
from rlhf_tune.study.history import History
from rlhf_tune.study.recommendation import Recommendation, summary_of
from rlhf_tune.study.risk import Risk
from rlhf_tune.study.sampler import DQNSampler, sign_of
from rlhf_tune.study.space import Axis

_LOOKS: dict[str, dict[str, Any]] = {
    "feasible": {"c": "tab:green", "marker": "o", "s": 34},
    "complete": {"c": "tab:blue", "marker": "o", "s": 34},
    "unsafe": {"c": "crimson", "marker": "x", "s": 44},
    "unchecked": {"facecolors": "none", "edgecolors": "0.4", "marker": "s", "s": 34},
    "pruned": {"c": "0.6", "marker": ".", "s": 40},
    "failed": {"c": "black", "marker": "1", "s": 70},
}
_STAR = {"facecolors": "none", "edgecolors": "tab:orange", "linewidths": 1.8, "s": 340}
_LONG = 60  # letters of a name, beyond which it is cut
_MANY = 40  # trials, from which on they are not numbered


@final
@dataclass(frozen=True)
class _Seen:
    """What is drawn: T trials that ended.

    Attributes:
        history: Theirs, over the parameters that all complete ones share.
        values: [T] in the objective's units, NaN without a result.
        kinds: T keys of the looks.
        recommended: The trial to use; None where there is none.
        risk: What was predicted.
        maximized: Whether larger is better.
    """

    history: History
    values: NDArray[np.float64]
    kinds: NDArray[np.str_]
    recommended: Recommendation | None
    risk: Risk
    maximized: bool

    @property
    def row(self) -> int | None:
        """Of the recommended trial."""
        if self.recommended is None:
            return None
        return int(np.flatnonzero(self.history.numbers == self.recommended.number)[0])


Panel = Callable[[Any, _Seen], None]
"""Draws on axes."""


def draw(study: Study, agent: DQNSampler) -> Any:
    """See `rlhf_tune.plot.plot_study`."""
    figures = require("matplotlib.figure", extra="plot")
    seen, told = _seen(study, agent)
    axes = _shown(study, seen.history)
    right: list[Panel] = [_draw_course]
    right += [partial(_draw_cost, k) for k in range(len(seen.history.constraints))]
    right += [_draw_risk] if len(seen.risk.numbers) else []
    heights = [2.0, *([1.0] * (len(right) - 1))]
    size = (11.0 if axes else 7.0, max(4.6, 1.5 * sum(heights)))
    figure = figures.Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(right), 2 if axes else 1, height_ratios=heights)
    if axes:
        place = figure.add_subplot(grid[:, 0])
        (_draw_plane if len(axes) == 2 else _draw_line)(place, seen, axes)
    _stack(figure, grid, right, seen)
    _add_legend(figure)
    figure.suptitle(f"{_text(study.study_name)}: {told}", fontsize="medium")
    return figure


def _stack(figure: Any, grid: Any, panels: Sequence[Panel], seen: _Seen) -> None:
    """Draw what goes over the trials, one below the other."""
    lowest: Any = None
    for row, draw_on in enumerate(panels):
        lowest = figure.add_subplot(grid[row, -1], sharex=lowest)
        lowest.tick_params(labelbottom=row == len(panels) - 1)
        lowest.grid(color="0.92")
        lowest.set_axisbelow(True)
        draw_on(lowest, seen)
    lowest.set_xlabel("trial")
    lowest.xaxis.get_major_locator().set_params(integer=True)


def _add_legend(figure: Any) -> None:
    """One of all panels."""
    entries = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=6)


def _seen(study: Study, agent: DQNSampler) -> tuple[_Seen, str]:
    """What there is to draw, and the study in a few words.

    Raises:
        InvalidInputError: If no trial has ended.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    if not trials:
        raise InvalidInputError(
            f"a study must have a trial that ended, but {study.study_name!r} has none; "
            "run study.optimize first"
        )
    history = agent.history(study)
    sign = sign_of(study)
    try:
        recommended = agent.recommendation(study)
    except CannotCertify:
        recommended = None
    ended = ~history.running
    rows = np.flatnonzero(ended & np.isin(history.numbers, [t.number for t in trials]))
    history = history.only(rows.tolist())
    seen = _Seen(
        history, sign * history.values, _kinds(history), recommended, agent.risk(study), sign > 0
    )
    none = "" if recommended else "; none can be recommended"
    return seen, f"{summary_of(trials, history)}{none}"


def _kinds(history: History) -> NDArray[np.str_]:
    """[T] how each trial ended."""
    complete = np.where(history.eligible, "feasible" if history.constraints else "complete", "")
    cases = [history.failed, history.unsafe, history.eligible, history.complete]
    return np.select(cases, ["failed", "unsafe", complete, "unchecked"], "pruned")


def _shown(study: Study, history: History) -> list[Axis]:
    """The two ordered parameters that matter most, or one, or none."""
    ordered = [axis for axis in history.lattice.axes if axis.ordered]
    weights = _importances(study) if len(ordered) > 2 else {}
    roles = ("learning_rate", "batch_size", "other")
    ordered.sort(key=lambda axis: (-weights.get(axis.name, 0.0), roles.index(axis.role)))
    return sorted(ordered[:2], key=lambda axis: roles.index(axis.role))


def _importances(study: Study) -> dict[str, float]:
    """By Optuna's PED-ANOVA; nothing where it has too little to go by."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few or equal trials, whose order is as good as any
        try:
            return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError):
            return {}


def _draw_plane(panel: Any, seen: _Seen, axes: Sequence[Axis]) -> None:
    x, y = (_values_of(seen.history, axis) for axis in axes)
    _scatter(panel, seen, x, y)
    _scale(panel, "x", axes[0])
    _scale(panel, "y", axes[1])
    if seen.row is not None:
        panel.scatter(x[seen.row], y[seen.row], marker="*", label="recommended", **_STAR)
    if len(x) <= _MANY:
        _number(panel, seen.history.numbers, x, y)
    panel.set_title("trials, by number")


def _draw_line(panel: Any, seen: _Seen, axes: Sequence[Axis]) -> None:
    """Of one parameter: what the trials gave over it."""
    x = _values_of(seen.history, axes[0])
    _scatter(panel, seen, x, seen.values)
    _without_result(panel, seen, x)
    _scale(panel, "x", axes[0])
    panel.set_ylabel(_measure(seen))
    if seen.row is not None:
        panel.scatter(x[seen.row], seen.values[seen.row], marker="*", label="recommended", **_STAR)


def _draw_course(panel: Any, seen: _Seen) -> None:
    numbers = seen.history.numbers
    _scatter(panel, seen, numbers, seen.values)
    _without_result(panel, seen, numbers)
    best = (np.fmax if seen.maximized else np.fmin).accumulate(
        np.where(seen.history.eligible, seen.values, np.nan)
    )
    if seen.history.eligible.any():
        label = "best feasible so far" if seen.history.constraints else "best so far"
        panel.step(numbers, best, where="post", color="tab:green", label=label)
    if seen.row is not None:
        at = numbers[seen.row], seen.values[seen.row]
        panel.scatter(*at, marker="*", label="recommended", **_STAR)
    panel.set_ylabel(_measure(seen))


def _draw_cost(k: int, panel: Any, seen: _Seen) -> None:
    """Of constraint k."""
    history = seen.history
    costs, numbers = history.costs[:, k], history.numbers
    finite = np.isfinite(costs)
    for rows, kind in ((finite & (costs <= 0), "feasible"), (finite & (costs > 0), "unsafe")):
        panel.scatter(numbers[rows], costs[rows], **_LOOKS[kind])
    untrusted = np.isinf(costs)
    if untrusted.any():
        top = np.full(untrusted.sum(), 0.97)
        look = {"marker": "^", "c": "crimson", "label": "not trusted"}
        panel.scatter(numbers[untrusted], top, transform=panel.get_xaxis_transform(), **look)
    panel.axhline(0, color="black", linewidth=0.9, label="the bound: cost 0")
    panel.set_ylabel("cost")
    panel.set_title(f"cost of {_text(history.constraints[k])}", loc="left", fontsize="small")


def _draw_risk(panel: Any, seen: _Seen) -> None:
    risk = seen.risk
    for holds, look in ((True, _LOOKS["feasible"]), (False, _LOOKS["unsafe"])):
        rows = risk.safe == holds
        panel.scatter(risk.numbers[rows], risk.p_safe[rows], **look)
    panel.set(ylabel="P(safe)", ylim=(-0.05, 1.05))
    panel.set_title("P(safe), predicted before the trial", loc="left", fontsize="small")


def _scatter(panel: Any, seen: _Seen, x: Any, y: Any) -> None:
    for kind, look in _LOOKS.items():
        rows = seen.kinds == kind
        if rows.any():
            panel.scatter(x[rows], y[rows], label=kind, zorder=3, **look)


def _without_result(panel: Any, seen: _Seen, x: Any) -> None:
    """Trials without a value stand at the bottom."""
    for kind in ("failed", "pruned", "unsafe"):
        rows = (seen.kinds == kind) & np.isnan(seen.values)
        if rows.any():
            place = {"transform": panel.get_xaxis_transform(), "clip_on": False}
            panel.scatter(x[rows], np.full(rows.sum(), 0.02), **_LOOKS[kind], **place)


def _values_of(history: History, axis: Axis) -> NDArray[np.float64]:
    """[T] of one parameter, as numbers."""
    return np.array([float(params[axis.name]) for params in history.params])


def _scale(panel: Any, side: str, axis: Axis) -> None:
    """A logarithmic axis has the base in which people think of it."""
    smallest = float(axis.values[0])
    options: dict[str, Any] = {f"{side}label": _text(axis.name)}
    if axis.log and smallest > 0:
        options[f"{side}scale"] = "log"
    panel.set(**options)
    if axis.log and smallest > 0 and axis.role == "batch_size":
        (panel.set_xscale if side == "x" else panel.set_yscale)("log", base=2)
        (panel.xaxis if side == "x" else panel.yaxis).set_major_formatter("{x:g}")
    panel.grid(color="0.92")
    panel.set_axisbelow(True)


def _number(panel: Any, numbers: Any, x: Any, y: Any) -> None:
    """Write the numbers of all trials at a point beside it."""
    points: dict[tuple[float, float], list[str]] = {}
    for number, place in zip(
        numbers.tolist(), zip(x.tolist(), y.tolist(), strict=True), strict=True
    ):
        points.setdefault(place, []).append(str(number))
    look = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 8}
    for point, there in points.items():
        panel.annotate("\n".join(there), point, (0, -6), **look)


def _measure(seen: _Seen) -> str:
    return "utility" if seen.history.judged else "value"


def _text(name: str) -> str:
    """A name as matplotlib shows it, without a meaning of its own."""
    text = plain(name)
    return (text if len(text) <= _LONG else f"{text[: _LONG - 3]}...").replace("$", r"\$")
