"""What people are shown of a trial, on a terminal and in optuna-dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rlhf_tune.errors import require
from rlhf_tune.feedback.cards import HEAD, Card
from rlhf_tune.study import preferences

_TEXT = 4000  # characters of an artifact that are read


def card_of(trial: FrozenTrial, *, artifacts: Path | None = None, storage: Any = None) -> Card:
    """What people are shown of a trial.

    Args:
        trial: With outcomes, or else its value and other numbers of its user attributes.
        artifacts: A folder of Optuna's `FileSystemArtifactStore`; texts in it are shown.
        storage: Of the study, to look artifacts up.
    """
    facts: dict[str, object] = dict(trial.user_attrs.get(preferences.OUTCOMES) or {})
    if not facts:
        attributes = trial.user_attrs.items()
        facts = {k: v for k, v in attributes if isinstance(v, int | float | str)}
        if trial.values and trial.state == TrialState.COMPLETE:
            facts = {"value": trial.values[0], **facts}
    constraints = {f"constraint {k}": c for k, c in trial.constraints.items()}
    seconds = {"seconds": trial.duration.total_seconds()} if trial.duration else {}
    steps = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    return Card(
        f"trial {trial.number}",
        {**facts, **constraints, **({} if "seconds" in facts else seconds), **trial.params},
        {"curve": steps} if steps else {},
        _texts(trial, artifacts, storage),
    )


def _texts(trial: FrozenTrial, folder: Path | None, storage: Any) -> dict[str, str]:
    """The beginnings of a trial's texts, and the names of its other artifacts."""
    if storage is None:
        return {}
    from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

    found = {}
    for meta in get_all_artifact_meta(trial, storage=storage):
        readable = folder is not None and meta.mimetype.startswith(("text/", "application/json"))
        found[meta.filename] = f"({meta.mimetype})"
        if readable:
            with FileSystemArtifactStore(str(folder)).open_reader(meta.artifact_id) as file:
                found[meta.filename] = file.read(_TEXT).decode(errors="replace")
    return found


def publish_cards(study: Study, *, artifacts: Path | None = None) -> None:
    """Make the cards the notes of the trials, which optuna-dashboard shows side by side.

    Notes that somebody else has written stay.

    Raises:
        MissingExtraError: If optuna-dashboard is not installed.
    """
    dashboard = require("optuna_dashboard", extra="feedback")
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() or not trial.params:
            continue
        card = card_of(trial, artifacts=artifacts, storage=study._storage)
        handle = Trial(study, trial._trial_id)
        note, text = dashboard.get_note(handle), card.markdown()
        if note != text and (not note or note.startswith(HEAD)):
            dashboard.save_note(handle, text)
