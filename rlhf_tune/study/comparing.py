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
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.asking import (
    expected_accuracy,
    more_needed,
    next_group,
    next_pair,
    sure_answers,
)
from rlhf_tune.feedback.cards import Card
from rlhf_tune.feedback.choice import bradley_terry
from rlhf_tune.feedback.judgements import MODEL, Judgement, JudgementLog, Kind
from rlhf_tune.feedback.quality import weights_by_annotator
from rlhf_tune.feedback.ratings import comparisons
from rlhf_tune.feedback.reward_model import RewardModel
from rlhf_tune.study import preferences
from rlhf_tune.study.history import is_preferential
from rlhf_tune.study.trial_cards import card_of

Array = NDArray[np.float64]

BROWSER = "browser"
"""The annotator of what was clicked in optuna-dashboard, which does not ask who clicks."""

_TAUGHT = 10  # answers from which a model is believed to be sure
_FEW = 64  # trials whose pairs a model labels; of more they would fill the log


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

    @property
    def context(self) -> str:
        """For what use people judge; "" for any."""
        return self._who["context"]

    def model(self, trials: Sequence[FrozenTrial]) -> RewardModel | None:
        """What people want, by the outcomes of `trials`; None where trials have no outcomes.

        Answers count by the reliability of who gave them; labels of a model do not count. Answers
        for other uses count as far as those for this one agree with them: ask it with
        ``context=session.context``.
        """
        outcomes = preferences.outcome_table(trials)
        if not outcomes.shape[1]:
            return None
        rows = {t.number: row for row, t in enumerate(trials)}
        people = [j for j in self.log.read() if j.role != MODEL]
        trust = weights_by_annotator(people)
        said = [
            (rows[i], rows[k], answer, often * trust.get(who, 1.0), context)
            for who, context, i, k, answer, often in comparisons(people)
            if i in rows and k in rows
        ]
        left, right = [row[0] for row in said], [row[1] for row in said]
        contexts = sorted({self.context, *(j.context for j in people)} - {""})
        model = RewardModel(names=preferences.outcome_names(trials), contexts=contexts)
        return model.fit(
            outcomes[left],
            outcomes[right],
            answers=[answer for *_, answer, _, _ in said],
            weights=[weight for *_, weight, _ in said],
            context=[use for *_, use in said],
            population=outcomes,
        )

    def question(self, size: int = 2) -> tuple[FrozenTrial, ...] | None:
        """The trials to compare next, the left one first; None where there is nothing to ask.

        Args:
            size: 2, or to be ranked so many at most.
        """
        trials = self.trials()
        if len(trials) < 2:
            return None
        rows = {t.number: row for row, t in enumerate(trials)}
        asked, labelled = self._asked(rows, people=True), self._asked(rows, people=False)
        rng = np.random.default_rng([self._seed, len(asked)])
        model = self.model(trials)
        chosen: Sequence[int] | None
        if model is None:
            chosen = self._least_known(trials, asked, rng, size)
        else:
            outcomes = preferences.outcome_table(trials)
            if len(asked) >= _TAUGHT and len(trials) <= _FEW:
                labelled += self._label(model, trials, outcomes, {*asked, *labelled})
            about: dict[str, Any] = {"labelled": labelled, "context": self.context}
            if size == 2:
                chosen = next_pair(model, outcomes, asked, rng, **about)
            else:
                chosen = next_group(model, outcomes, asked, rng, size, **about)
        return None if chosen is None else tuple(trials[row] for row in chosen)

    def to_rate(self) -> FrozenTrial | None:
        """The trial to rate next: the least known that this annotator has not rated, or skipped."""
        mine = [j for j in self.judgements() if j.annotator == self._who["annotator"]]
        over = {j.items for j in mine if j.kind in ("rating", "skip")}
        trials = self.trials()
        left = [t for t in trials if (t.number,) not in over]
        model = self.model(trials)
        if not left or model is None:
            return left[0] if left else None
        table = preferences.outcome_table(trials)
        _, deviation = model.predict(table, context=self.context)
        known = dict(zip((t.number for t in trials), deviation.tolist(), strict=True))
        return max(left, key=lambda trial: known[trial.number])

    def _asked(self, rows: dict[int, int], *, people: bool) -> list[tuple[int, int]]:
        """The pairs of rows that people were asked about, or that a model labelled."""
        return [
            (rows[left], rows[right])
            for j in self.judgements()
            if j.kind in ("comparison", "ranking", "skip") and set(j.items) <= rows.keys()
            if (j.role != MODEL) == people
            for left, right in combinations(j.items, 2)
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
        answers = sure_answers(model, outcomes[i], outcomes[j], context=self.context)
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
        size: int,
    ) -> Sequence[int] | None:
        """The best trial so far beside those that were compared least, the latest ones."""
        rows = {t.number: row for row, t in enumerate(trials)}
        best = self._best(rows)
        known = {frozenset(pair) for pair in asked}
        often = Counter(row for pair in asked for row in pair)
        open_ = [row for row in rows.values() if row != best and {best, row} not in known]
        if not open_:
            return None
        others = sorted(open_, key=lambda row: (often[row], -row))[: size - 1]
        group = [best, *others]
        return group if rng.random() < 0.5 else group[::-1]

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
        return self.record("comparison", (left, right), grades, seconds, **who)

    def record(
        self,
        kind: Kind,
        trials: Sequence[FrozenTrial],
        grades: tuple[float, ...] | None,
        seconds: float = 0.0,
        **who: str,
    ) -> Judgement:
        """Record what was said of trials; `answer` is this for two of them.

        Args:
            kind: "comparison", "rating" or "ranking".
            trials: As they were shown, the left one first.
            grades: One number a trial, the larger the better; None to skip them.
            seconds: That it took.
            who: Annotator, role or context, where they are others than the session's.
        """
        judgement = Judgement(
            "skip" if grades is None else kind,
            tuple(trial.number for trial in trials),
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
        right = expected_accuracy(model, outcomes, context=self.context)
        more = more_needed(model, outcomes, len(people), context=self.context)
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
        there, rated = preferences.reported(self.study), preferences.ratings_of(self.study)
        for judgement in records:
            known = there.get(judgement.id, rated.get(judgement.id))
            if judgement.id in standing and known is None:
                self._put(judgement)
            if judgement.id not in standing and known:
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


def log_beside(study_name: str, storage: str) -> Path:
    """Where the judgement log of a study lies by default: beside the file of its storage."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in study_name)
    kind, _, rest = storage.partition("///")
    folder = Path(rest).parent if kind.startswith("sqlite") and rest else Path()
    return folder / f"{safe}.judgements.jsonl"
