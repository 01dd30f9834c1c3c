"""Asking people about the trials of a study: what to ask, and where the answers go.

Every answer is written to the judgement log first, then into the study, and what a kill left out
of the study is put there at the next start. Answers given in optuna-dashboard are taken over into
the log.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rlhf_tune.errors import InvalidInputError, require
from rlhf_tune.feedback.asking import expected_accuracy, more_needed, next_pair, sure_answers
from rlhf_tune.feedback.cards import HEAD, Card
from rlhf_tune.feedback.choice import bradley_terry
from rlhf_tune.feedback.judgements import MODEL, Judgement, JudgementLog
from rlhf_tune.feedback.quality import weights_by_annotator
from rlhf_tune.feedback.reward_model import RewardModel
from rlhf_tune.study import preferences
from rlhf_tune.study.history import is_preferential

Array = NDArray[np.float64]

BROWSER = "browser"
"""The annotator of what was clicked in optuna-dashboard, which does not ask who clicks."""

_TAUGHT = 10  # answers from which a model is believed to be sure
_FEW = 64  # trials whose pairs a model labels; of more they would fill the log
_TEXT = 4000  # characters of an artifact that are read


Ask = Callable[[Card, Card], tuple[float, float] | None]
"""Shows two cards, left and right; returns (1, 0), (0, 1), (.5, .5) for a tie, or None to skip."""


class Session:
    """Questions about the trials of a study, and their answers."""

    def __init__(
        self,
        study: Study,
        log: JudgementLog,
        *,
        annotator: str = "anonymous",
        role: str = "user",
        context: str = "",
        seed: int = 0,
    ) -> None:
        """Begin, or go on: what log and study do not share yet is brought together.

        Args:
            study: Preferential or not; in one that is not, answers go to the log alone.
            log: Of the judgements.
            annotator: Who answers.
            role: As what.
            context: For what use.
            seed: Of the sides on which trials are shown.

        Raises:
            InvalidInputError: If the log names trials that the study does not have.
        """
        self.study, self.log = study, log
        self._who = {"annotator": annotator, "role": role, "context": context}
        self._seed = seed
        self._preferential = is_preferential(study)
        self.synchronise()

    def judgements(self) -> list[Judgement]:
        """Those that stand, in this context or in any."""
        wanted = ("", self._who["context"])
        return [j for j in self.log.read() if not self._who["context"] or j.context in wanted]

    def trials(self) -> list[FrozenTrial]:
        """The trials that can be compared: finished, or with outcomes; no skipped ones.

        In a preferential study without outcomes also running ones, which end by being compared.
        """
        trials = self.study.get_trials(deepcopy=False)
        skipped = preferences.answers_of(self.study).skipped
        judged_by = any(preferences.outcomes_of(t) for t in trials)
        return [
            t
            for t in trials
            if t._trial_id not in skipped and self._comparable(t, judged_by=judged_by)
        ]

    def _comparable(self, trial: FrozenTrial, *, judged_by: bool) -> bool:
        if judged_by:
            table = preferences.outcome_table([trial])
            return table.shape[1] > 0 and bool(np.isfinite(table).all()) and _alive(trial)
        if trial.state == TrialState.COMPLETE:
            return True
        return self._preferential and trial.state == TrialState.RUNNING and bool(trial.params)

    def model(self, trials: Sequence[FrozenTrial]) -> RewardModel | None:
        """What people want, by the outcomes of `trials`; None where trials have no outcomes.

        Answers count by the reliability of who gave them; labels of a model do not count.
        """
        outcomes = preferences.outcome_table(trials)
        if not outcomes.shape[1]:
            return None
        rows = {t.number: row for row, t in enumerate(trials)}
        people = [j for j in self.judgements() if j.role != MODEL]
        trust = weights_by_annotator(people)
        said = [
            (rows[i], rows[k], answer, trust.get(j.annotator, 1.0))
            for j in people
            for i, k, answer in j.answers()
            if i in rows and k in rows
        ]
        left, right = [row[0] for row in said], [row[1] for row in said]
        model = RewardModel(names=preferences.outcome_names(trials))
        return model.fit(
            outcomes[left],
            outcomes[right],
            answers=[answer for *_, answer, _ in said],
            weights=[weight for *_, weight in said],
            population=outcomes,
        )

    def question(self) -> tuple[FrozenTrial, FrozenTrial] | None:
        """The two trials to compare next, left and right; None where there is nothing to ask."""
        trials = self.trials()
        if len(trials) < 2:
            return None
        rows = {t.number: row for row, t in enumerate(trials)}
        asked, labelled = self._asked(rows, people=True), self._asked(rows, people=False)
        rng = np.random.default_rng([self._seed, len(asked)])
        model = self.model(trials)
        if model is None:
            pair = self._least_known(trials, asked, rng)
        else:
            outcomes = preferences.outcome_table(trials)
            if len(asked) >= _TAUGHT and len(trials) <= _FEW:
                labelled += self._label(model, trials, outcomes, {*asked, *labelled})
            pair = next_pair(model, outcomes, asked, rng, labelled=labelled)
        return None if pair is None else (trials[pair[0]], trials[pair[1]])

    def _asked(self, rows: dict[int, int], *, people: bool) -> list[tuple[int, int]]:
        """The pairs of rows that people were asked about, or that a model labelled."""
        return [
            (rows[j.items[0]], rows[j.items[1]])
            for j in self.judgements()
            if j.kind in ("comparison", "skip") and len(j.items) == 2
            if (j.role != MODEL) == people and set(j.items) <= rows.keys()
        ]

    def _label(
        self,
        model: RewardModel,
        trials: Sequence[FrozenTrial],
        outcomes: Array,
        asked: Collection[tuple[int, int]],
    ) -> list[tuple[int, int]]:
        """Answer what the model is sure of, in its own name; returns the pairs."""
        known = {frozenset(pair) for pair in asked}
        pairs = [p for p in combinations(range(len(trials)), 2) if frozenset(p) not in known]
        if not pairs:
            return []
        i, j = np.array(pairs).T
        answers = sure_answers(model, outcomes[i], outcomes[j])
        sure = [
            (pair, answer) for pair, answer in zip(pairs, answers, strict=True) if answer == answer
        ]
        labels = [
            Judgement(
                "comparison",
                (trials[left].number, trials[right].number),
                (float(answer), 1 - float(answer)),
                annotator="reward model",
                role=MODEL,
                context=self._who["context"],
            )
            for (left, right), answer in sure
        ]
        if labels:
            self.log.append(*labels)
        return [pair for pair, _ in sure]

    def _least_known(
        self,
        trials: Sequence[FrozenTrial],
        asked: Sequence[tuple[int, int]],
        rng: np.random.Generator,
    ) -> tuple[int, int] | None:
        """The best trial so far beside one that was compared least, the latest of those."""
        rows = {t.number: row for row, t in enumerate(trials)}
        best = self._best(rows)
        known = {frozenset(pair) for pair in asked}
        often = Counter(row for pair in asked for row in pair)
        open_ = [row for row in rows.values() if row != best and {best, row} not in known]
        if not open_:
            return None
        other = min(open_, key=lambda row: (often[row], -row))
        return (best, other) if rng.random() < 0.5 else (other, best)

    def _best(self, rows: dict[int, int]) -> int:
        """The row of the best trial by what was said so far."""
        if self._preferential:
            known = preferences.utilities_of(self.study)
            return rows[max(rows, key=lambda number: known.get(number, -math.inf))]
        pairs = [
            (rows[i], rows[k])
            for j in self.judgements()
            for i, k, _ in j.pairs()
            if i in rows and k in rows
        ]
        return int(bradley_terry(len(rows), pairs).argmax())

    def ask(self, ask: Ask, left: FrozenTrial, right: FrozenTrial, **who: str) -> Judgement:
        """Show two trials to whoever `ask` stands for, and record the answer."""
        began = time.monotonic()
        cards = (card_of(trial, storage=self.study._storage) for trial in (left, right))
        grades = ask(*cards)
        return self.answer(left, right, grades, time.monotonic() - began, **who)

    def answer(
        self,
        left: FrozenTrial,
        right: FrozenTrial,
        grades: tuple[float, float] | None,
        seconds: float = 0.0,
        **who: str,
    ) -> Judgement:
        """Record an answer: (1, 0), (0, 1), (.5, .5) for a tie, or None to skip the question.

        Args:
            left: What was shown on the left.
            right: On the right.
            grades: The answer.
            seconds: That it took.
            who: Annotator, role or context, where they are others than the session's.
        """
        judgement = Judgement(
            "skip" if grades is None else "comparison",
            (left.number, right.number),
            grades or (),
            seconds=seconds,
            **{**self._who, **who},
        )
        self.log.append(judgement)
        self._put(judgement)
        return judgement

    def progress(self) -> str:
        """How many answers there are, the minutes they took, and about how many more are needed."""
        people = [j for j in self.judgements() if j.role != MODEL]
        minutes = sum(j.seconds for j in people) / 60
        said = f"{len(people)} answered in {minutes:.1f} min"
        trials = self.trials()
        model = self.model(trials) if len(trials) > 1 else None
        if model is None:
            return said
        outcomes = preferences.outcome_table(trials)
        right = expected_accuracy(model, outcomes)
        more = more_needed(model, outcomes, len(people))
        unknown = more is None or len(people) < _TAUGHT
        rest = "some more" if unknown else f"about {more} more"
        return f"{said} · order {100 * right:.0f} % right, {rest} for 95 %"

    def undo(self) -> Judgement | None:
        """Take back this annotator's last judgement; returns it, None where there is none."""
        mine = [j for j in self.log.read() if j.annotator == self._who["annotator"]]
        mine = [j for j in mine if j.role != MODEL]
        if not mine:
            return None
        self.log.undo(mine[-1])
        if self._preferential:
            preferences.take_back(self.study, mine[-1])
        return mine[-1]

    def add(self, judgements: Sequence[Judgement]) -> int:
        """Take over judgements from elsewhere; returns how many were new.

        Raises:
            InvalidInputError: If one is of a trial that the study does not have; then none is
                taken over.
        """
        known = {j.id for j in self.log.records()}
        new = [j for j in judgements if j.id not in known]
        self._check(new)
        if new:
            self.log.append(*new)
        for judgement in new:
            self._put(judgement)
        return len(new)

    def _put(self, judgement: Judgement) -> None:
        if self._preferential and judgement.role != MODEL:
            preferences.report(self.study, judgement)

    def _check(self, judgements: Sequence[Judgement]) -> None:
        trials = len(self.study.get_trials(deepcopy=False))
        wrong = sorted({i for j in judgements for i in j.items if not 0 <= i < trials})
        if wrong:
            raise InvalidInputError(
                f"judgements must be of the {trials} trials of the study, but name {wrong}; is it "
                "the log of another study?"
            )

    def synchronise(self) -> None:
        """Put into the study what the log has and it lacks, and the other way round."""
        records, standing = self.log.records(), {j.id for j in self.log.read()}
        self._check(records)
        if not self._preferential:
            return
        there = preferences.reported(self.study)
        for judgement in records:
            if judgement.id in standing and judgement.id not in there:
                self._put(judgement)
            if judgement.id not in standing and there.get(judgement.id):
                preferences.take_back(self.study, judgement)
        self._take_over(there, {j.id: j for j in records}, standing)

    def _take_over(
        self, there: dict[str, Any], known: dict[str, Judgement], standing: set[str]
    ) -> None:
        """Write to the log what was clicked, and undone, in the browser."""
        for name, pairs in there.items():
            if pairs and name not in known:
                ranked = _clicked(pairs)
                if ranked is not None:
                    clicked = Judgement(*ranked, annotator=BROWSER, id=name)
                    when = preferences.clicked_at(self.study, name) or clicked.time
                    self.log.append(replace(clicked, time=when))
            elif not pairs and name in standing:
                self.log.undo(known[name])


def _alive(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED)


def _clicked(pairs: list[tuple[int, int]]) -> tuple[Any, tuple[int, ...], tuple[float, ...]] | None:
    """A click as a judgement: several trials, of which one is the worst."""
    losers = {loser for _, loser in pairs}
    winners = list(dict.fromkeys(winner for winner, _ in pairs))
    if len(losers) != 1 or losers & set(winners):
        return None
    items = (*winners, *losers)
    return ("comparison" if len(items) == 2 else "ranking"), items, (1.0,) * len(winners) + (0.0,)


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


def log_beside(study_name: str, storage: str) -> Path:
    """Where the judgement log of a study lies by default: beside the file of its storage."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in study_name)
    kind, _, rest = storage.partition("///")
    folder = Path(rest).parent if kind.startswith("sqlite") and rest else Path()
    return folder / f"{safe}.judgements.jsonl"
