"""The loop from the first trial to the check of the last ones, and what a kill leaves of it."""

import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from rlhf_tune import DQNSampler
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.feedback import JudgementLog
from rlhf_tune.feedback.cards import Card
from rlhf_tune.feedback.judgements import MODEL
from rlhf_tune.study.comparing import Session
from rlhf_tune.study.feedback_loop import GOLD, Tuned, tune
from rlhf_tune.study.preferences import OUTCOMES, make_preferential

optuna.logging.set_verbosity(optuna.logging.ERROR)


def outcomes(trial: optuna.Trial) -> dict[str, float]:
    """A wider network is more accurate and slower; a larger rate less robust."""
    rate = math.log10(trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True))
    width = trial.suggest_int("width", 4, 128, log=True)
    return {
        "accuracy": 0.95 - 0.03 * (rate + 2.5) ** 2 - 0.15 * math.exp(-width / 16),
        "seconds": 5 + 0.8 * width,
        "robust": 0.3 - 0.1 * rate - 0.001 * width,
    }


def wanted(facts: dict[str, float]) -> float:
    return 40 * facts["accuracy"] + 20 * facts["robust"] - 0.08 * facts["seconds"]


class Person:
    """Answers by `wanted`, with logistic noise."""

    def __init__(self, seed: int = 0, noise: float = 1.0) -> None:
        self.rng, self.noise, self.answers = np.random.default_rng(seed), noise, 0

    def __call__(self, left: Card, right: Card) -> tuple[float, float]:
        self.answers += 1
        gap = (wanted(left.facts) - wanted(right.facts)) / max(self.noise, 1e-9)
        first = self.rng.random() < 1 / (1 + math.exp(-np.clip(gap, -50, 50)))
        return (1.0, 0.0) if first else (0.0, 1.0)


def preferential(folder: Path, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 's.db'}",
        study_name="s",
        sampler=DQNSampler(seed=seed),
        load_if_exists=True,
    )
    make_preferential(study)
    return study


SMALL = {"trials": 10, "start": 4, "questions": 8}


def test_it_ends_with_what_people_want(tmp_path: Path) -> None:
    study, person = preferential(tmp_path), Person(noise=0.0)
    session = Session(study, JudgementLog(tmp_path / "log.jsonl"))
    found = tune(study, outcomes, person, session, trials=14, start=6, questions=14)
    assert isinstance(found, Tuned)
    assert len(study.trials) == 14
    each = [wanted(t.user_attrs[OUTCOMES]) for t in study.trials]
    assert wanted(found.trial.user_attrs[OUTCOMES]) == max(each[n] for n in found.finalists)
    assert sorted(each).index(each[found.trial.number]) >= 11  # of the best three
    roles = [j.role for j in session.log.read()]
    assert roles.count(GOLD) >= 3
    assert found.answers == person.answers == len(roles) - roles.count(MODEL)
    again = tune(study, outcomes, person, session, trials=14, start=6, questions=14)
    assert again.trial.number == found.trial.number
    assert person.answers == found.answers  # nothing is asked twice


class KilledError(BaseException):
    """As if the process ended here."""


def test_a_loop_killed_anywhere_goes_on(tmp_path: Path) -> None:
    """Each call dies after one trial or question more; nothing that was answered is asked again."""
    person, died, log = Person(), 0, JudgementLog(tmp_path / "log.jsonl")

    def one_more(left: Card, right: Card) -> tuple[float, float]:
        if steps.pop():
            return person(left, right)
        raise KilledError

    def one_trial(trial: optuna.Trial) -> dict[str, float]:
        if steps.pop():
            return outcomes(trial)
        raise KilledError

    while True:
        steps, before = [False, True], log.read()
        study = preferential(tmp_path)
        try:
            found = tune(study, one_trial, one_more, Session(study, log), **SMALL)
            break
        except KilledError:
            died += 1
            assert log.read()[: len(before)] == before
    assert died > 10
    people = [j for j in log.read() if j.role != MODEL]
    assert len(people) == person.answers == found.answers
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert len(complete) + len(failed) >= 10
    assert len({j.id for j in people}) == len(people)


def test_a_kill_between_outcomes_and_the_end_of_a_trial_costs_nothing(tmp_path: Path) -> None:
    study = preferential(tmp_path)
    trial = study.ask()
    trial.set_user_attr(OUTCOMES, outcomes(trial))
    session = Session(study, JudgementLog(tmp_path / "log.jsonl"))
    tune(study, outcomes, Person(), session, **SMALL)
    assert study.trials[0].state == TrialState.COMPLETE
    assert len(study.trials) == 10


def test_answers_that_a_kill_kept_from_the_study_are_put_there(tmp_path: Path) -> None:
    study, log = preferential(tmp_path), JudgementLog(tmp_path / "log.jsonl")
    tune(study, outcomes, Person(), Session(study, log), **SMALL)
    for key in study._storage.get_study_system_attrs(study._study_id):
        if key.startswith("preference:values"):
            study._storage.set_study_system_attr(study._study_id, key, None)
    people = [j for j in log.read() if j.role != MODEL]
    fresh = optuna.create_study(sampler=DQNSampler(seed=0))
    make_preferential(fresh)
    fresh.add_trials(study.trials)
    Session(fresh, log)
    attributes = fresh._storage.get_study_system_attrs(fresh._study_id)
    there = {k.removeprefix("preference:values") for k in attributes}
    assert {j.id for j in people} <= there


def test_rules_outvote_preferences(tmp_path: Path) -> None:
    """People want it robust; the rule wants it fast, and they get the best of the fast ones."""
    study = preferential(tmp_path)

    def rules(found: dict[str, float]) -> dict[str, float]:
        return {"rule seconds": found["seconds"] - 12}

    session = Session(study, JudgementLog(tmp_path / "log.jsonl"))
    found = tune(study, outcomes, Person(), session, rules=rules, **SMALL)
    assert found.trial.user_attrs[OUTCOMES]["seconds"] <= 12
    assert all(study.trials[n].constraints["rule seconds"] <= 0 for n in found.finalists)


def test_where_no_trial_keeps_the_rules_it_says_so(tmp_path: Path) -> None:
    study = preferential(tmp_path)
    session = Session(study, JudgementLog(tmp_path / "log.jsonl"))
    with pytest.raises(CannotCertify, match="none of 10 does"):
        tune(study, outcomes, Person(), session, rules=lambda _: {"never": 1.0}, **SMALL)


def test_trials_that_diverge_or_fail_are_not_asked_about(tmp_path: Path) -> None:
    study, seen = preferential(tmp_path), []
    person = Person()

    def diverging(trial: optuna.Trial) -> dict[str, float]:
        found = outcomes(trial)
        return {**found, "accuracy": math.nan} if trial.number in (2, 5) else found

    def ask(left: Card, right: Card) -> tuple[float, float]:
        seen.extend([left.title, right.title])
        return person(left, right)

    tune(study, diverging, ask, Session(study, JudgementLog(tmp_path / "log")), **SMALL)
    assert {study.trials[n].state for n in (2, 5)} == {TrialState.FAIL}
    assert not {"trial 2", "trial 5"} & set(seen)

    def broken(trial: optuna.Trial) -> dict[str, float]:
        raise ZeroDivisionError

    other = optuna.create_study(sampler=DQNSampler(seed=0))
    make_preferential(other)
    with pytest.raises(ZeroDivisionError):
        tune(other, broken, person, Session(other, JudgementLog(tmp_path / "other")), **SMALL)
    assert other.trials[0].state == TrialState.FAIL


def test_a_person_may_skip_everything(tmp_path: Path) -> None:
    study = preferential(tmp_path)
    session = Session(study, JudgementLog(tmp_path / "log.jsonl"))
    found = tune(study, outcomes, lambda left, right: None, session, **SMALL)
    assert found.trial.state == TrialState.COMPLETE


def test_arguments_are_checked(tmp_path: Path) -> None:
    study = preferential(tmp_path)
    session = Session(study, JudgementLog(tmp_path / "log.jsonl"))
    with pytest.raises(InvalidInputError, match="start <= trials"):
        tune(study, outcomes, Person(), session, trials=3, start=4)
    plain = optuna.create_study()
    with pytest.raises(InvalidInputError, match="must be preferential"):
        tune(plain, outcomes, Person(), Session(plain, session.log))
