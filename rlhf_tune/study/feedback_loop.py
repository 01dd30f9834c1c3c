"""The loop: start, ask people, learn what they want, tune for it, and let them check the end.

What is next is a function of the study's trials and of the judgement log, so a loop that was
killed anywhere goes on from there when it is called again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.feedback.judgements import MODEL
from rlhf_tune.feedback.reward_model import RewardModel
from rlhf_tune.progress import bars
from rlhf_tune.study import preferences
from rlhf_tune.study.comparing import Ask, Session
from rlhf_tune.study.history import is_preferential

Rules = Callable[[Mapping[str, float]], Mapping[str, float]]

GOLD = "gold"
"""The role of whoever checks the best trials before the loop says that it is done."""


@dataclass(frozen=True)
class Tuned:
    """What a loop came to.

    Attributes:
        trial: The one that people chose of the best.
        finalists: Numbers of the trials that they compared at the end.
        model: Of what they want.
        answers: That people gave.
        minutes: That these took.
    """

    trial: FrozenTrial
    finalists: tuple[int, ...]
    model: RewardModel
    answers: int
    minutes: float


def tune(
    study: Study,
    objective: Callable[[Trial], Mapping[str, float]],
    ask: Ask,
    session: Session,
    *,
    trials: int = 30,
    start: int = 8,
    questions: int = 20,
    finalists: int = 3,
    rules: Rules | None = None,
) -> Tuned:
    """Tune for what people prefer; call it again to go on after a kill.

    Questions are spread over the trials after the first few, each chosen by what it would tell.
    At the end people compare the best trials by the model with each other ("gold"), until the
    model agrees with them about which ones these are.

    Args:
        study: Preferential (`preferences.make_preferential`); with `DQNSampler` trials go where
            people are likely to prefer the outcome.
        objective: Runs a trial and returns its outcomes, numbers by name, the same ones always.
        ask: Shows two cards, left and right, and returns (1, 0), (0, 1), (.5, .5) for a tie, or
            None to skip.
        session: Of the study, with its judgement log.
        trials: In all.
        start: Trials before the first question.
        questions: In all, the check at the end not counted.
        finalists: How many trials are checked.
        rules: Costs of outcomes by name, which no preference outvotes:
            `rlhf_tune.gate.Constitution.costs`.

    Raises:
        CannotCertify: If no trial keeps all rules.
        InvalidInputError: If an argument breaks its rule.
    """
    if not (2 <= start <= trials and questions >= 1 and finalists >= 2):
        raise InvalidInputError(
            f"2 <= start <= trials, questions >= 1 and finalists >= 2 must hold, but got "
            f"start={start}, trials={trials}, questions={questions}, finalists={finalists}"
        )
    if not is_preferential(study):
        raise InvalidInputError("the study must be preferential; call make_preferential(study)")
    _finish(study)
    exhausted = False
    while True:
        ended = len(_ended(study))
        due = math.ceil(questions * (ended - start + 1) / (trials - start + 1))
        if ended >= start and not exhausted and _answered(session) < min(due, questions):
            exhausted = not _ask(session, ask)
        elif ended < trials:
            _run(study, objective, rules)
            exhausted = False
        else:
            return _checked(session, ask, finalists)


def _finish(study: Study) -> None:
    """Complete the trials whose outcomes are there: a kill came between."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.RUNNING and preferences.outcomes_of(trial) is not None:
            study.tell(trial.number, 0.0)


def _ended(study: Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]


def _answered(session: Session) -> int:
    """How many questions people answered or skipped, those at the end left out."""
    return sum(j.role not in (MODEL, GOLD) for j in session.judgements())


def _ask(session: Session, ask: Ask) -> bool:
    """Ask one question; returns whether there was one."""
    question = session.question()
    if question is None:
        return False
    session.ask(ask, *question)
    return True


def _run(
    study: Study, objective: Callable[[Trial], Mapping[str, float]], rules: Rules | None
) -> None:
    """One trial. Its rules are measured before its outcomes are there: none is left unchecked."""
    trial = study.ask()
    try:
        with bars() as shown:
            shown.add_task(f"trial {trial.number}", total=None)
            outcomes = {name: float(value) for name, value in objective(trial).items()}
        for name, cost in (rules(outcomes) if rules else {}).items():
            trial.set_constraint(name, cost)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    finite = bool(outcomes) and all(map(math.isfinite, outcomes.values()))
    trial.set_user_attr(preferences.OUTCOMES, outcomes)
    study.tell(trial, 0.0 if finite else None, None if finite else TrialState.FAIL)


def _checked(session: Session, ask: Ask, finalists: int) -> Tuned:
    """Let people compare the best trials until the model has the same ones."""
    while True:
        trials = _eligible(session)
        model = session.model(trials)
        if model is None:
            raise InvalidInputError(
                "the objective must return the same outcomes, finite numbers by name, always"
            )
        outcomes = preferences.outcome_table(trials)
        mean, deviation = model.predict(outcomes, context=session.context)
        ranked = np.argsort(-(mean - deviation), kind="stable")[:finalists]
        best = [trials[int(row)] for row in ranked]
        judged = {frozenset(j.items) for j in session.judgements() if j.role == GOLD}
        pairs = combinations(best, 2)
        left = [pair for pair in pairs if frozenset(t.number for t in pair) not in judged]
        if not left:
            return _tuned(session, best, model)
        session.ask(ask, *left[0], role=GOLD)


def _eligible(session: Session) -> list[FrozenTrial]:
    """The trials with outcomes that keep every rule that any trial was checked by."""
    trials = session.trials()
    rules = {name for t in trials for name in t.constraints}
    kept = [t for t in trials if all(t.constraints.get(r, math.inf) <= 0 for r in rules)]
    if not kept:
        raise CannotCertify(
            f"at least one trial must keep the rules {sorted(rules)}, but none of {len(trials)} "
            "does; run more trials, or relax a rule"
        )
    return kept


def _tuned(session: Session, best: list[FrozenTrial], model: RewardModel) -> Tuned:
    numbers = tuple(t.number for t in best)
    wins: dict[int, float] = defaultdict(float)
    for judgement in session.judgements():
        if judgement.role == GOLD and set(judgement.items) <= set(numbers):
            for preferred, _, weight in judgement.pairs():
                wins[preferred] += weight
    people = [j for j in session.judgements() if j.role != MODEL]
    minutes = sum(j.seconds for j in people) / 60
    chosen = max(best, key=lambda t: wins[t.number])  # the model's order among equals
    return Tuned(chosen, numbers, model, len(people), minutes)
