"""Sessions: where answers go, and what is taken over from elsewhere."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback import Judgement, JudgementLog
from rlhf_tune.feedback.judgements import MODEL
from rlhf_tune.study.comparing import Session, log_beside
from rlhf_tune.study.preferences import OUTCOMES, answers_of, make_preferential
from rlhf_tune.study.trial_cards import card_of, publish_cards

optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_of(n: int, *, outcomes: bool = True, preferential: bool = True) -> optuna.Study:
    study = optuna.create_study()
    if preferential:
        make_preferential(study)
    for k in range(n):
        attrs = {OUTCOMES: {"accuracy": 0.1 * k, "seconds": float(k % 4)}} if outcomes else {}
        study.add_trial(create_trial(value=0.0, user_attrs=attrs))
    return study


def session_of(study: optuna.Study, folder: Path, **who: str) -> Session:
    return Session(study, JudgementLog(folder / "log.jsonl"), **who)


def test_an_answer_goes_to_the_log_and_into_the_study(tmp_path: Path) -> None:
    session = session_of(study_of(4), tmp_path, annotator="ada", role="expert", context="edge")
    left, right = session.question()
    session.answer(left, right, (0.0, 1.0), 3.5)
    (written,) = session.log.read()
    assert (written.annotator, written.role, written.context) == ("ada", "expert", "edge")
    assert written.seconds == 3.5
    assert answers_of(session.study).preferences == ((right.number, left.number, 1.0),)


def test_in_an_ordinary_study_answers_go_to_the_log_alone(tmp_path: Path) -> None:
    session = session_of(study_of(4, preferential=False), tmp_path)
    session.answer(*session.question(), (1.0, 0.0))
    assert len(session.log.read()) == 1
    assert answers_of(session.study).preferences == ()


@pytest.mark.parametrize("outcomes", [True, False])
def test_undo_takes_back_this_person_s_last_answer(tmp_path: Path, outcomes: bool) -> None:
    study = study_of(4, outcomes=outcomes)
    ben, ada = (session_of(study, tmp_path, annotator=who) for who in ("ben", "ada"))
    kept = ben.answer(*ben.question(), (1.0, 0.0))
    gone = ada.answer(*ada.question(), (1.0, 0.0))
    assert ada.undo() == gone
    assert ada.undo() is None
    assert ada.log.read() == [kept]
    assert len(answers_of(study).preferences) == 1


def test_every_pair_is_asked_once_and_then_there_is_nothing(tmp_path: Path) -> None:
    session = session_of(study_of(3, preferential=False), tmp_path)
    for _ in range(3):
        session.answer(*session.question(), None)
    assert session.question() is None
    assert session_of(study_of(1), tmp_path / "..").question() is None


def test_what_the_model_is_sure_of_is_labelled_by_it_and_not_learned_from(tmp_path: Path) -> None:
    session = session_of(study_of(12), tmp_path)
    people = 0
    while people < 30 and (question := session.question()) is not None:
        left, right = question
        session.answer(left, right, (1.0, 0.0) if left.number > right.number else (0.0, 1.0))
        people += 1
    labels = [j for j in session.log.read() if j.role == MODEL]
    assert labels
    assert all(winner > loser for j in labels for winner, loser, _ in j.pairs())
    asked = {frozenset(j.items) for j in session.log.read() if j.role != MODEL}
    assert len(asked) + len(labels) <= 66 + 3  # all pairs, and some repeated
    told = {frozenset(pair[:2]) for pair in answers_of(session.study).preferences}
    assert told <= asked  # nor does the sampler
    trials = session.trials()
    before = session.model(trials).predict([[0.5, 1.0]])
    session.log.append(*(Judgement.preferring(0, 11, role=MODEL) for _ in range(50)))
    assert session.model(trials).predict([[0.5, 1.0]])[0] == before[0]


def test_clicks_of_the_dashboard_are_taken_over_and_so_is_their_undo(tmp_path: Path) -> None:
    study = study_of(4)
    storage, number = study._storage, study._study_id
    storage.set_study_system_attr(number, "preference:valuesone", [[1, 0], [2, 0]])
    told = {"timestamp": "2026-01-02T03:04:05.678", "id": "one"}
    storage.set_study_system_attr(number, "preference:historyone", json.dumps(told))
    session = session_of(study, tmp_path)
    (click,) = session.log.read()
    assert (click.annotator, click.kind, click.items) == ("browser", "ranking", (1, 2, 0))
    assert click.time.startswith("2026-01-0")
    assert [p[:2] for p in click.pairs() if p[2] == 1] == [(1, 0), (2, 0)]
    assert len(session_of(study, tmp_path).log.records()) == 1  # once
    storage.set_study_system_attr(number, "preference:valuesone", [])
    assert session_of(study, tmp_path).log.read() == []


def test_several_of_a_click_are_not_ties(tmp_path: Path) -> None:
    """Of three, one was the worst; nothing was said of the other two."""
    study = study_of(3)
    study._storage.set_study_system_attr(study._study_id, "preference:valuesa", [[1, 0], [2, 0]])
    session_of(study, tmp_path)
    session_of(study, tmp_path)
    assert sorted(answers_of(study).preferences) == [(1, 0, 1.0), (2, 0, 1.0)]


def test_judgements_from_elsewhere_are_added_once_or_not_at_all(tmp_path: Path) -> None:
    session = session_of(study_of(4), tmp_path)
    given = [Judgement.preferring(1, 0), Judgement.preferring(2, 3)]
    assert session.add(given) == 2
    assert session.add(given) == 0
    with pytest.raises(InvalidInputError, match=r"4 trials of the study, but name \[9\]"):
        session.add([Judgement.preferring(1, 2), Judgement.preferring(9, 0)])
    assert len(session.log.read()) == 2


def test_the_log_of_another_study_is_refused(tmp_path: Path) -> None:
    JudgementLog(tmp_path / "log.jsonl").append(Judgement.preferring(7, 1))
    with pytest.raises(InvalidInputError, match="the log of another study"):
        session_of(study_of(4), tmp_path)


def test_a_card_shows_outcomes_constraints_and_parameters() -> None:
    study = optuna.create_study()

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("rate", 0, 1)
        trial.set_user_attr("note", "wide")
        trial.set_constraint("robustness", -0.25)
        for step in range(3):
            trial.report(1 / (step + 1), step)
        return 0.5

    study.optimize(objective, n_trials=1)
    facts = dict(card_of(study.trials[0]).rows())
    assert {"value", "note", "constraint robustness", "rate", "seconds", "curve"} <= facts.keys()
    assert facts["curve"].startswith("1 █")
    assert dict(card_of(study_of(2).trials[1]).rows())["accuracy"] == "0.1"


def test_artifacts_are_shown_as_texts(tmp_path: Path) -> None:
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    (tmp_path / "sample.txt").write_text("Once upon a time")
    (tmp_path / "store").mkdir()
    store = FileSystemArtifactStore(str(tmp_path / "store"))
    study = study_of(0)
    trial = study.ask()
    upload_artifact(
        artifact_store=store, file_path=str(tmp_path / "sample.txt"), study_or_trial=trial
    )
    shown = study.trials[0]
    card = card_of(shown, artifacts=tmp_path / "store", storage=study._storage)
    assert card.texts == {"sample.txt": "Once upon a time"}
    assert card_of(shown, storage=study._storage).texts == {"sample.txt": "(text/plain)"}


def test_cards_are_the_notes_of_the_dashboard_but_for_other_people_s(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    study = study_of(0)
    trials = [study.ask() for _ in range(2)]
    for trial in trials:
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr(OUTCOMES, {"accuracy": 0.5})
    dashboard.save_note(trials[1], "mine")
    publish_cards(study)
    assert "| accuracy | 0\\.5 |" in dashboard.get_note(trials[0]).replace("0.5", "0\\.5")
    assert dashboard.get_note(trials[1]) == "mine"


def test_the_log_lies_beside_the_storage() -> None:
    assert log_beside("a/b c", "sqlite:///runs/s.db") == Path("runs/a_b_c.judgements.jsonl")
    assert log_beside("s", "sqlite:////tmp/s.db") == Path("/tmp/s.judgements.jsonl")
    assert log_beside("s", "postgresql://host/db") == Path("s.judgements.jsonl")
