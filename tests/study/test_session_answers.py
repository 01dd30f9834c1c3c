"""What a session learns from: answers for other uses, ratings and rankings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from rlhf_tune import DQNSampler
from rlhf_tune.feedback import JudgementLog, RewardModel
from rlhf_tune.study.comparing import Session
from rlhf_tune.study.preferences import (
    OUTCOMES,
    answers_of,
    make_preferential,
    ratings_of,
    utilities_of,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)

NAMES = ("accuracy", "memory", "seconds")
WISHES = {"server": np.array([3.0, -0.2, -2.0]), "edge": np.array([3.0, -3.0, -2.0])}


def study_of(n: int, *, outcomes: bool = True, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(sampler=DQNSampler(seed=0))
    make_preferential(study)
    for vector in np.random.default_rng(seed).normal(size=(n, 3)).tolist():
        trial = create_trial(
            value=0.0,
            params={"x": vector[0]},
            distributions={"x": FloatDistribution(-9.0, 9.0)},
            user_attrs={OUTCOMES: dict(zip(NAMES, vector, strict=True))} if outcomes else {},
        )
        study.add_trial(trial)
    return study


def session_of(study: optuna.Study, folder: Path, **who: str) -> Session:
    return Session(study, JudgementLog(folder / "log.jsonl"), **who)


def table(study: optuna.Study) -> np.ndarray:
    return np.array([[t.user_attrs[OUTCOMES][name] for name in NAMES] for t in study.trials])


def worth(study: optuna.Study, context: str) -> np.ndarray:
    return table(study) @ WISHES[context]


def pair_accuracy(found: np.ndarray, true: np.ndarray) -> float:
    i, j = np.triu_indices(len(true), 1)
    return float(((found[i] > found[j]) == (true[i] > true[j])).mean())


def answer(session: Session, context: str, questions: int, rng: np.random.Generator) -> None:
    true = worth(session.study, context)
    for _ in range(questions):
        left, right = session.question()
        gap = true[left.number] - true[right.number]
        first = float(rng.random() < 1 / (1 + np.exp(-gap)))
        session.answer(left, right, (first, 1 - first))


def shared_and_alone(folder: Path, seed: int, few: int) -> tuple[float, float]:
    """Pair accuracy at the edge after few answers there, and twenty of the server or none."""
    study, rng = study_of(40, seed=seed), np.random.default_rng(seed)
    log = JudgementLog(folder / f"{seed}.jsonl")
    answer(Session(study, log, context="server"), "server", 20, rng)
    edge = Session(study, log, context="edge")
    answer(edge, "edge", few, rng)
    shared = edge.model(study.trials)
    mine = [j for j in log.read() if j.context == "edge" and j.role != "model"]
    outcomes, said = table(study), [a for j in mine for a in j.answers()]
    left, right, answers = zip(*said, strict=True)
    alone = RewardModel().fit(
        outcomes[list(left)], outcomes[list(right)], answers=answers, population=outcomes
    )
    means = shared.predict(outcomes, context="edge")[0], alone.predict(outcomes)[0]
    first, second = (pair_accuracy(mean, worth(study, "edge")) for mean in means)
    return first, second


def test_few_answers_for_one_use_are_helped_by_those_for_another(tmp_path: Path) -> None:
    found = np.array([shared_and_alone(tmp_path, seed, 5) for seed in range(6)])
    print(f"pair accuracy of 5 answers: {found.mean(axis=0)} (with those of another use, alone)")
    assert found[:, 0].mean() > found[:, 1].mean() + 0.02


def test_what_uses_disagree_in_is_each_one_s_own(tmp_path: Path) -> None:
    study = study_of(20)
    order = np.argsort(table(study)[:, 1])
    low, high = (study.trials[int(k)] for k in (order[0], order[-1]))
    for context, better, worse in (("edge", low, high), ("server", high, low)):
        session = session_of(study, tmp_path, context=context)
        for _ in range(8):
            session.answer(better, worse, (1.0, 0.0))
    for context, sign in (("edge", -1), ("server", 1)):
        session = session_of(study, tmp_path, context=context)
        rows = table(study)[[high.number]], table(study)[[low.number]]
        mean, _ = session.model(study.trials).difference(*rows, context=session.context)
        assert mean[0] * sign > 0.5


def test_a_pair_that_was_asked_for_one_use_is_asked_for_another(tmp_path: Path) -> None:
    study = study_of(2)
    server, edge = (session_of(study, tmp_path, context=c) for c in ("server", "edge"))
    server.answer(*server.question(), (1.0, 0.0))
    assert server.question() is None
    assert edge.question() is not None
    assert edge.judgements() == []


def test_a_use_that_nobody_judged_for_yet_begins_with_what_holds_for_others(tmp_path: Path) -> None:
    study, rng = study_of(30), np.random.default_rng(0)
    answer(session_of(study, tmp_path, context="server"), "server", 20, rng)
    phone = session_of(study, tmp_path, context="phone")
    mean, _ = phone.model(study.trials).predict(table(study), context=phone.context)
    assert pair_accuracy(mean, worth(study, "server")) > 0.85
    assert phone.question() is not None
    assert "0 answered" in phone.progress()


def grade(session: Session, mark: Callable[[float], float], most: int) -> None:
    true = worth(session.study, "server")
    for _ in range(most):
        trial = session.to_rate()
        session.record("rating", (trial,), (mark(true[trial.number]),), 2.0)


def test_ratings_teach_the_model_and_the_sampler(tmp_path: Path) -> None:
    study = study_of(20)
    true = worth(study, "server")
    for who, mark in (("ada", round), ("mild", lambda u: 5 + round(u / 4, 1))):
        grade(session_of(study, tmp_path, annotator=who), mark, 10)
    session = session_of(study, tmp_path)
    mean, _ = session.model(study.trials).predict(table(study))
    assert pair_accuracy(mean, true) > 0.9
    known = utilities_of(study)
    assert pair_accuracy(np.array([known[n] for n in range(20)]), true) > 0.9
    x = study.sampler.recommend(study)["x"]
    (number,) = (t.number for t in study.trials if t.params["x"] == x)
    assert true[number] >= np.sort(true)[-2]


def test_ratings_without_outcomes_teach_the_sampler_over_the_parameters(tmp_path: Path) -> None:
    study = study_of(9, outcomes=False)
    session = session_of(study, tmp_path)
    for trial in study.trials:
        session.record("rating", (trial,), (round(3 * trial.params["x"]),))
    assert study.sampler.recommend(study)["x"] == max(t.params["x"] for t in study.trials)


def test_everybody_rates_every_trial_once_the_least_known_first(tmp_path: Path) -> None:
    study = study_of(5)
    ada, ben = (session_of(study, tmp_path, annotator=who) for who in ("ada", "ben"))
    seen = []
    while (trial := ada.to_rate()) is not None:
        seen.append(trial.number)
        ada.record("rating", (trial,), None if len(seen) == 2 else (5.0,))
    assert sorted(seen) == list(range(5))
    assert ben.to_rate() is not None
    far = np.abs((table(study) - np.median(table(study), axis=0)) / table(study).std(axis=0))
    assert seen[0] == (far**2).sum(axis=1).argmax()


def test_a_rating_is_undone_in_log_and_study_and_put_back_by_neither(tmp_path: Path) -> None:
    study = study_of(4)
    session = session_of(study, tmp_path)
    for trial, mark in zip(study.trials[:3], (2.0, 7.0, 9.0), strict=True):
        session.record("rating", (trial,), (mark,))
    gone = session.undo()
    assert gone.items == (2,)
    again = session_of(study, tmp_path)
    assert [j.items for j in again.log.read()] == [(0,), (1,)]
    assert sorted(answers_of(study).ratings) == [("anonymous", 0, 2.0), ("anonymous", 1, 7.0)]
    assert ratings_of(study)[gone.id] == []


@pytest.mark.parametrize("lost", ["rating", "ranking"])
def test_what_a_kill_left_out_of_the_study_is_put_there(tmp_path: Path, lost: str) -> None:
    study = study_of(4)
    session = session_of(study, tmp_path)
    session._preferential = False  # killed between the log and the study
    if lost == "rating":
        session.record("rating", study.trials[:2], (2.0, 7.0))
    else:
        session.record("ranking", study.trials[:3], (0.0, 2.0, 1.0))
    assert answers_of(study).trusted() == []
    session_of(study, tmp_path)
    preferred = max(answers_of(study).trusted(), key=lambda told: told[2])
    assert preferred[:2] == (1, 0)
    before = answers_of(study)
    session_of(study, tmp_path)
    assert answers_of(study) == before


def test_a_rated_trial_that_was_running_is_complete(tmp_path: Path) -> None:
    study = optuna.create_study(sampler=DQNSampler(seed=0))
    make_preferential(study)
    study.ask({"x": FloatDistribution(0.0, 1.0)})
    session = session_of(study, tmp_path)
    session.record("rating", (session.to_rate(),), (3.0,))
    assert study.trials[0].state.is_finished()


def test_rankings_are_of_new_pairs_until_none_is_left(tmp_path: Path) -> None:
    study = study_of(6)
    session = session_of(study, tmp_path)
    true, asked = worth(study, "server"), set()
    while (group := session.question(4)) is not None:
        pairs = {frozenset((a.number, b.number)) for a in group for b in group if a is not b}
        assert len(group) == 4 == len({t.number for t in group})
        assert pairs - asked
        asked |= pairs
        session.record("ranking", group, tuple(true[[t.number for t in group]].tolist()))
    assert len(asked) >= 13  # of 15; the model may be sure of the rest
    known = utilities_of(study)
    assert pair_accuracy(np.array([known[n] for n in range(6)]), true) > 0.9


def test_a_skipped_group_is_not_shown_again(tmp_path: Path) -> None:
    session = session_of(study_of(3), tmp_path)
    session.record("ranking", session.question(4), None)
    assert session.question(4) is None
    assert session.question() is None


def test_without_outcomes_the_best_is_ranked_beside_the_least_compared(tmp_path: Path) -> None:
    study = study_of(7, outcomes=False)
    session = session_of(study, tmp_path)
    group = session.question(3)
    session.record("ranking", group, tuple(t.params["x"] for t in group))
    best = max(group, key=lambda t: t.params["x"])
    following = session.question(3)
    assert {t.number for t in group} & {t.number for t in following} == {best.number}
