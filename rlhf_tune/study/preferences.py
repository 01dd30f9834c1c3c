"""Preferential studies: what people said of trials takes the place of what was measured.

Comparisons lie in the study's storage, where optuna-dashboard's browser and `rlhf-tune compare`
write them. The values of its trials are placeholders, which are never read. A trial whose user
attribute `outcomes` is a mapping of numbers is judged by these: a reward model then also grades
trials that nobody compared. Otherwise utilities are a Gaussian process over the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.judgements import Judgement
from rlhf_tune.feedback.quality import weights_by_annotator
from rlhf_tune.feedback.ratings import compared
from rlhf_tune.study.belief import believe
from rlhf_tune.study.history import PREFERENTIAL, History, common_space, read
from rlhf_tune.study.space import Lattice, lattice

Array = NDArray[np.float64]

OUTCOMES = "outcomes"
"""The user attribute of a trial that holds its outcomes: numbers by name."""

# Those of optuna-dashboard 0.21, which has no public way to read them without copying all trials.
_ACTIVE = "preference:n_generate"
_PREFERENCES = "preference:values"
_HISTORY = "preference:history"
_SKIPPED = "preference:skip_trial:"
# What the dashboard does not know:
_TIES = "rlhf_tune:ties:"
_ANNOTATOR = "rlhf_tune:annotator:"
_RATING = "rlhf_tune:rating:"


@dataclass(frozen=True)
class Answers:
    """What was said of the trials of a study.

    Attributes:
        preferences: (preferred, rejected, weight) by trial number.
        skipped: Ids of trials that nobody wants to judge.
        annotators: Who said each of `preferences`; "" where that is not known, as of clicks.
        ratings: (who, trial number, grade).
    """

    preferences: tuple[tuple[int, int, float], ...]
    skipped: frozenset[int]
    annotators: tuple[str, ...] = ()
    ratings: tuple[tuple[str, int, float], ...] = ()

    def trusted(self) -> list[tuple[int, int, float]]:
        """The preferences, those that ratings say included.

        They count by the reliability of whoever said them.
        """
        trust = self._reliability()
        found = [
            (i, j, weight * trust.get(who, 1.0))
            for (i, j, weight), who in zip(self.preferences, self.annotators, strict=True)
        ]
        for of in compared(self.ratings):
            often = of.weight * trust.get(of.who, 1.0)
            sides = of.left.tolist(), of.right.tolist(), of.answers.tolist()
            for i, j, answer in zip(*sides, strict=True):
                found += [(i, j, often * answer), (j, i, often * (1 - answer))]
        return found

    def _reliability(self) -> Mapping[Hashable, float]:
        said = zip(self.preferences, self.annotators, strict=True)
        if len(set(self.annotators)) < 2:
            return {}
        return weights_by_annotator(
            [Judgement.preferring(i, j, annotator=who) for (i, j, w), who in said if w == 1]
        )


def make_preferential(study: Study, *, active: int = 2) -> None:
    """Let comparisons take the place of values, as optuna-dashboard's `create_study` does.

    Args:
        study: Of one objective.
        active: How many trials are shown side by side.
    """
    study._storage.set_study_system_attr(study._study_id, PREFERENTIAL, True)
    study._storage.set_study_system_attr(study._study_id, _ACTIVE, active)


def answers_of(study: Study) -> Answers:
    """The comparisons that stand, read tolerantly.

    What was undone is left out, and what is no pair of two different trials that exist.
    """
    attributes, known = _attributes(study), len(study.get_trials(deepcopy=False))
    found: list[tuple[int, int, float]] = []
    annotators: list[str] = []
    for key, value in attributes.items():
        weight = 0.5 if key.startswith(_TIES) else 1.0
        if key.startswith((_PREFERENCES, _TIES)):
            found += [(*pair, weight) for pair in _pairs(value, known)]
            found += [(*pair[::-1], weight) for pair in _pairs(value, known) if weight < 1]
            name = key.removeprefix(_PREFERENCES).removeprefix(_TIES)
            who = str(attributes.get(_ANNOTATOR + name, ""))
            annotators += [who] * (len(found) - len(annotators))
    skipped = (key.removeprefix(_SKIPPED) for key in attributes if key.startswith(_SKIPPED))
    ids = frozenset(int(text) for text in skipped if text.isdecimal())
    ratings = (
        (str(attributes.get(_ANNOTATOR + name, "")), *rating)
        for name, told in ratings_of(study).items()
        for rating in told
    )
    return Answers(tuple(found), ids, tuple(annotators), tuple(ratings))


def report(study: Study, judgement: Judgement) -> None:
    """Write what a judgement says into the study; again is the same as once.

    The trials are complete from then on, with the placeholder 0.

    Raises:
        InvalidInputError: If there is no such trial.
    """
    trials = study.get_trials(deepcopy=False)
    if not all(0 <= item < len(trials) for item in judgement.items):
        raise InvalidInputError(
            f"a judgement must be of trials below {len(trials)}, but got {judgement.items}"
        )
    pairs = list(judgement.pairs())
    if judgement.grades:
        key = _ANNOTATOR + judgement.id
        study._storage.set_study_system_attr(study._study_id, key, judgement.annotator)
    for prefix, which in ((_PREFERENCES, 1.0), (_TIES, 0.5)):
        same = [[i, j] for i, j, weight in pairs if weight == which and (which == 1.0 or i < j)]
        if same:
            study._storage.set_study_system_attr(study._study_id, prefix + judgement.id, same)
    if judgement.kind == "rating":
        told = list(zip(judgement.items, judgement.grades, strict=True))
        study._storage.set_study_system_attr(study._study_id, _RATING + judgement.id, told)
    for item in judgement.items if judgement.grades else ():
        if not trials[item].state.is_finished():
            study._storage.set_trial_state_values(
                trials[item]._trial_id, TrialState.COMPLETE, [0.0]
            )


def take_back(study: Study, judgement: Judgement) -> None:
    """Take a judgement back, as the dashboard's undo does."""
    for prefix in (_PREFERENCES, _TIES, _RATING):
        if prefix + judgement.id in _attributes(study):
            study._storage.set_study_system_attr(study._study_id, prefix + judgement.id, [])


def reported(study: Study) -> dict[str, list[tuple[int, int]]]:
    """The pairs of each judgement in a study, by its id; none where it was undone."""
    known = len(study.get_trials(deepcopy=False))
    found: dict[str, list[tuple[int, int]]] = {}
    for key, value in _attributes(study).items():
        for prefix in (_PREFERENCES, _TIES):
            if key.startswith(prefix):
                found.setdefault(key.removeprefix(prefix), []).extend(_pairs(value, known))
    return found


def ratings_of(study: Study) -> dict[str, list[tuple[int, float]]]:
    """(trial number, grade) of each rating in a study, by its id; none where it was undone."""
    known = len(study.get_trials(deepcopy=False))
    return {
        key.removeprefix(_RATING): [
            (item, _number(grade))
            for item, grade in value
            if item < known and _number(grade) == grade
        ]
        for key, value in _attributes(study).items()
        if key.startswith(_RATING)
    }


def clicked_at(study: Study, name: str) -> str:
    """When a judgement was clicked in the dashboard, in ISO 8601; "" where that is unknown."""
    try:
        told = json.loads(_attributes(study)[_HISTORY + name])
        return datetime.fromisoformat(told["timestamp"]).astimezone().isoformat(timespec="seconds")
    except (KeyError, TypeError, ValueError):
        return ""


def history_of(study: Study, over: Lattice, *, ignore: int | None = None) -> History:
    """The history of a preferential study's trials, with utilities for values.

    Args:
        study: Preferential.
        over: The lattice to project its trials on.
        ignore: The number of the trial that is being proposed.
    """
    answers = answers_of(study)  # before the trials that they name
    trials = study.get_trials(deepcopy=False)
    history = read(trials, over, study.direction, ignore=ignore)
    return graded(history, trials, answers)


def utilities_of(study: Study) -> dict[int, float]:
    """What is known of the trials of a preferential study by number, larger is better."""
    found = common_space(study.get_trials(deepcopy=False))
    history = history_of(study, lattice(found, {}))
    known = zip(history.numbers.tolist(), history.values.tolist(), strict=True)
    return {number: value for number, value in known if value == value}


def graded(history: History, trials: Sequence[FrozenTrial], answers: Answers) -> History:
    """A history whose values are utilities; NaN where nothing is known of a trial.

    Args:
        history: Of the trials.
        trials: Of the study, by number.
        answers: What was said of them.
    """
    rows = {int(number): row for row, number in enumerate(history.numbers)}
    open_ = [trials[number]._trial_id not in answers.skipped for number in history.numbers]
    pairs = [
        (rows[i], rows[j], weight)
        for i, j, weight in answers.trusted()
        if weight > 0 and i in rows and j in rows and open_[rows[i]] and open_[rows[j]]
    ]
    outcomes = outcome_table([trials[number] for number in history.numbers])
    lost = np.array([trials[n].state == TrialState.FAIL for n in history.numbers], np.bool_)
    values, belief = np.full(len(rows), np.nan), None
    if pairs:
        first = np.array([pair[0] for pair in pairs])
        second = np.array([pair[1] for pair in pairs])
        weights = np.array([weight for _, _, weight in pairs])
        known = np.asarray(np.isfinite(outcomes).all(axis=1) & bool(outcomes.shape[1]))
        if known[first].all() and known[second].all():
            known &= open_ & ~lost
            values[known] = _by_outcomes(outcomes, known, first, second, weights)
        else:
            compared = np.unique([first, second])
            seen = history.features()[compared]
            at, beside = np.searchsorted(compared, first), np.searchsorted(compared, second)
            belief = believe(seen, at, beside, weights)
            values[compared] = belief.utilities.mean
    # Nobody need be asked about outcomes that are not finite: that trial failed.
    failed = lost | (np.isnan(outcomes).any(axis=1) if outcomes.shape[1] else False)
    running = history.running & np.isnan(values)
    return replace(
        history, values=values, failed=failed, running=running, judged=True, belief=belief
    )


def outcomes_of(trial: FrozenTrial) -> dict[str, float] | None:
    """The outcomes of a trial, NaN where one is no number; None where there are none."""
    given = trial.user_attrs.get(OUTCOMES)
    if not isinstance(given, Mapping) or not given:
        return None
    return {str(name): _number(value) for name, value in given.items()}


def outcome_names(trials: Sequence[FrozenTrial]) -> list[str]:
    """The outcomes that all trials with outcomes have."""
    each = [found for trial in trials if (found := outcomes_of(trial)) is not None]
    return sorted(set.intersection(*map(set, each))) if each else []


def outcome_table(trials: Sequence[FrozenTrial]) -> Array:
    """[T, D] the outcomes of trials, in the order of `outcome_names`.

    -inf where a trial has none, NaN where they are not finite.
    """
    names = outcome_names(trials)
    rows = []
    for trial in trials:
        found = outcomes_of(trial)
        row = [-np.inf] * len(names) if found is None else [found[name] for name in names]
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(names))


def _by_outcomes(
    outcomes: Array, known: NDArray[np.bool_], first: Any, second: Any, weights: Array
) -> Array:
    """The utilities of the known outcomes [T, D], by a reward model."""
    from rlhf_tune.feedback.reward_model import RewardModel

    model = RewardModel().fit(
        outcomes[first], outcomes[second], weights=weights, population=outcomes[known]
    )
    return model.predict(outcomes[known])[0]


def _attributes(study: Study) -> Mapping[str, Any]:
    return study._storage.get_study_system_attrs(study._study_id)


def _pairs(value: Any, known: int) -> list[tuple[int, int]]:
    """Pairs of two different numbers below `known`; anything else is passed over."""
    pairs = value if isinstance(value, list | tuple) else []
    return [
        (pair[0], pair[1])
        for pair in pairs
        if isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(n) is int and 0 <= n < known for n in pair)
        and pair[0] != pair[1]
    ]


def _number(value: Any) -> float:
    """A finite number, or NaN."""
    if isinstance(value, bool | int | float) and np.isfinite(value):
        return float(value)
    return float("nan")
