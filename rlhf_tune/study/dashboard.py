"""What optuna-dashboard shows of a study: user attributes and notes, written on request alone.

optuna-dashboard draws what the storage holds, but knows neither Optuna's constraints by name nor a
recommendation: of a study with violations it calls the best value the best trial. So this writes,
where it shows: `move`, `p_safe` and `constraint <name>` on each trial, `recommended` on the study,
and both as notes. The sampler itself writes none of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rlhf_tune.errors import CannotCertify, InvalidInputError, require
from rlhf_tune.printable import markdown as cell
from rlhf_tune.progress import track
from rlhf_tune.study.decision import incumbent
from rlhf_tune.study.history import History, common_space, costs_of, is_preferential, read
from rlhf_tune.study.risk import SafetyChecker
from rlhf_tune.study.sampler import DQNSampler
from rlhf_tune.study.space import lattice

RECOMMENDED = "recommended"
"""The study's user attribute: number and parameters of the trial to use, or why there is none."""

_SHOWN = 20  # rows of the table in a study's note
_HEAD = "### rlhf_tune"


def dashboard_attributes(objective: Callable[[Trial], Any]) -> Callable[[Trial], Any]:
    """An objective whose trials say their move, P(safe) and constraints as user attributes.

    A trial takes attributes only while it runs, so this cannot be added to trials that have ended;
    their notes say the same (`dashboard_note`).

    Args:
        objective: As ``study.optimize`` takes it.
    """

    def described(trial: Trial) -> Any:
        try:
            return objective(trial)
        finally:
            frozen = trial.study._storage.get_trial(trial._trial_id)
            for name, value in describe(trial.study, frozen).items():
                trial.set_user_attr(name, value)

    return described


def dashboard_note(study: Study, trial: FrozenTrial | None = None) -> None:
    """Write the recommendation and the table of constraints where optuna-dashboard shows them.

    A callback too: ``study.optimize(objective, n_trials=40, callbacks=[dashboard_note])`` keeps
    them up to date. A note that somebody else wrote is left as it is.

    Args:
        study: With one objective.
        trial: Whose note is written beside the study's; by default those of all that have ended.

    Raises:
        InvalidInputError: If the study has several objectives, or is preferential.
        MissingExtraError: If optuna-dashboard is not installed.
    """
    if len(study.directions) > 1 or is_preferential(study):
        raise InvalidInputError(
            f"a note needs a study with one measured objective, but {study.study_name!r} has "
            f"{'several' if len(study.directions) > 1 else 'comparisons'}"
        )
    require("optuna_dashboard", extra="feedback")
    if trial is not None:
        _save(study, _trial_note(study, trial), trial)
    else:
        ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.params]
        for each in track(ended, "notes"):
            _save(study, _trial_note(study, each), each)
    chosen, why = _chosen(study)
    value: Any = why if chosen is None else {"trial": chosen.number, "params": chosen.params}
    study.set_user_attr(RECOMMENDED, value)
    _save(study, _study_note(study, chosen, why))


def recommended_trial(study: Study) -> FrozenTrial:
    """The trial that `DQNSampler.recommend` chooses; of repetitions the best one that is feasible.

    Raises:
        CannotCertify: If no trial is eligible.
    """
    sampler = study.sampler if isinstance(study.sampler, DQNSampler) else DQNSampler(seed=0)
    params = sampler.recommend(study)
    same = [
        t
        for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if t.params == params and all(cost <= 0 for cost in costs_of(t).values())
    ]
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return min(same, key=lambda t: sign * t.values[0])


def describe(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """What is known of a trial by name: `move`, `p_safe` as predicted, `constraint <name>`."""
    costs = {  # a browser reads no infinity
        f"constraint {name}": cost if math.isfinite(cost) else str(cost)
        for name, cost in sorted(costs_of(trial).items())
    }
    before = [
        t
        for t in study.get_trials(deepcopy=False)
        if t.number < trial.number and t.state.is_finished()
    ]
    space = {k: v for k, v in common_space([*before, trial]).items() if k in trial.params}
    over = lattice(space, {})
    history, checker = read(before, over, study.direction), SafetyChecker()
    forecasts = checker.forecasts(history) if space else ()
    row = incumbent(history, checker, forecasts) if space else None
    if row is None:
        return {"move": "start", **costs}
    found: dict[str, Any] = {"move": _move(history, row, trial.params)}
    if forecasts:
        there = over.cells(over.positions_of([trial.params]))
        found["p_safe"] = round(float(checker.p_safe(history, there, forecasts)[0]), 3)
    return {**found, **costs}


def _move(history: History, row: int, params: Mapping[str, Any]) -> str:
    """How a trial's parameters differ from the incumbent's."""
    old = history.params[row]
    names = [axis.name for axis in history.lattice.axes if old[axis.name] != params[axis.name]]
    moves = [f"{name} {_short(old[name])} -> {_short(params[name])}" for name in names]
    return ", ".join(moves) or "stay"


def _chosen(study: Study) -> tuple[FrozenTrial | None, str]:
    """The recommended trial, or why there is none."""
    try:
        return recommended_trial(study), ""
    except CannotCertify as exc:
        return None, str(exc)


def _trial_note(study: Study, trial: FrozenTrial) -> str:
    rows = {**describe(study, trial), **trial.params}
    return "\n".join([_HEAD, "", *_table(("", ""), [(k, _short(v)) for k, v in rows.items()])])


def _study_note(study: Study, chosen: FrozenTrial | None, why: str) -> str:
    """The recommendation, and the best trials with their constraints."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for t in done for name in t.constraints})
    said = why if chosen is None else f"trial {chosen.number}, {_params(chosen.params)}"
    lines = [_HEAD, "", f"**Recommended:** {cell(said)}"]
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    ranked = sorted(done, key=lambda t: sign * t.values[0])
    if names and ranked and not _feasible(ranked[0], names):
        lines += [
            "",
            f"The dashboard does not know constraints: trial {ranked[0].number}, which it calls "
            "the best, violates one or was not checked.",
        ]
    heads = ("trial", "value", *(f"constraint {name}" for name in names), "feasible")
    rows = [
        (
            str(t.number),
            _short(t.values[0]),
            *(_short(t.constraints.get(name, "")) for name in names),
            "yes" if _feasible(t, names) else "no",
        )
        for t in ranked[:_SHOWN]
    ]
    return "\n".join([*lines, "", *_table(heads, rows)])


def _feasible(trial: FrozenTrial, names: Sequence[str]) -> bool:
    """Whether a trial was checked for all constraints of its study, and keeps them."""
    costs = costs_of(trial)
    return all(costs.get(name, math.inf) <= 0 for name in names)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [
        f"| {' | '.join(text if n == 1 else cell(text) for text in line)} |"
        for n, line in enumerate(lines)
    ]


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _save(study: Study, text: str, trial: FrozenTrial | None = None) -> None:
    """Save a note unless it is unchanged, or somebody else's."""
    dashboard = require("optuna_dashboard", extra="feedback")
    about: Study | Trial = study
    if trial is not None:  # no sampler hears of a trial that has ended
        plain = Study(study.study_name, study._storage, sampler=RandomSampler())
        about = Trial(plain, trial._trial_id)
    note = dashboard.get_note(about)
    if note != text and (not note or note.startswith(_HEAD)):
        dashboard.save_note(about, text)
