"""Storages that are locked, full, read-only, lost or damaged: nothing is lost or overwritten."""

import math
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from rlhf_tune import DQNSampler

pytestmark = pytest.mark.usefixtures("_quiet")


@pytest.fixture
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)


def objective(trial: optuna.Trial) -> float:
    trial.set_constraint("c", -0.1)
    rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    return (math.log10(rate) + 2.7) ** 2


class Place:
    """A study on SQLite."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.db"
        self.storages: list[RDBStorage] = []

    def study(self, **options: Any) -> optuna.Study:
        storage = RDBStorage(
            f"sqlite:///{self.path}", engine_kwargs={"connect_args": {"timeout": 0.1}}
        )
        self.storages.append(storage)
        return optuna.create_study(
            storage=storage,
            study_name="s",
            load_if_exists=True,
            sampler=DQNSampler(seed=0),
            **options,
        )

    def do(self, statement: str) -> None:
        with sqlite3.connect(self.path) as connection:
            assert connection.execute(statement).rowcount >= 1
        connection.close()

    def values(self) -> list[Any]:
        connection = sqlite3.connect(self.path)
        found = connection.execute("select trial_id, value from trial_values").fetchall()
        connection.close()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    it = Place(tmp_path)
    yield it
    for storage in it.storages:
        storage.remove_session()
        storage.engine.dispose()


DAMAGE = {
    "a constraint is a text": "update trial_system_attributes set value_json='\"high\"' "
    "where key like 'constraint%' and trial_id=2",
    "a constraint is null": "update trial_system_attributes set value_json='null' "
    "where key like 'constraint%' and trial_id=2",
    "a constraint is a list": "update trial_system_attributes set value_json='[1]' "
    "where key like 'constraint%' and trial_id=2",
    "a value is missing": "delete from trial_values where trial_id=2",
    "a parameter is NaN": "update trial_params set param_value=9e999 where trial_id=2",
    "a trial lost its parameters": "delete from trial_params where trial_id=2",
    "a parameter was renamed": "update trial_params set param_name='rate' where trial_id=2",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_ends_no_study(damage: str, place: Place) -> None:
    place.study().optimize(objective, 5)
    place.do(DAMAGE[damage])
    before = place.values()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        study = place.study()
        study.optimize(objective, 3)
        assert study.sampler.recommend(study).keys() == {"lr"}
        study.sampler.explain(study)
    assert [t.state for t in study.get_trials()[5:]] == [TrialState.COMPLETE] * 3
    assert place.values()[: len(before)] == before, "what was there is there"
    told = " ".join(str(each.message) for each in said)
    assert "trial 1 is damaged" in told or damage not in (
        "a value is missing",
        "a parameter is NaN",
    )


def test_what_is_not_known_to_be_safe_is_not_recommended(place: Place) -> None:
    study = place.study()
    study.optimize(objective, 5)
    best = study.best_trial
    key = "update trial_system_attributes set value_json='\"high\"' where key like 'constraint%'"
    place.do(f"{key} and trial_id={best.number + 1}")
    again = place.study()
    assert again.sampler.recommend(again) != best.params


def test_a_locked_database_ends_the_call_and_loses_nothing(place: Place) -> None:
    study = place.study()
    study.optimize(objective, 3)
    holder = sqlite3.connect(place.path, isolation_level=None)
    holder.execute("begin exclusive")
    with pytest.raises(StorageInternalError):
        study.optimize(objective, 2)
    holder.execute("rollback")
    holder.close()
    study.optimize(objective, 2)
    states = [t.state for t in study.get_trials()]
    assert states.count(TrialState.COMPLETE) == 5


def test_a_connection_lost_in_mid_trial_loses_that_trial_alone(place: Place) -> None:
    study = place.study()
    study.optimize(objective, 3)

    def cut(trial: optuna.Trial) -> float:
        value = objective(trial)
        place.storages[-1].engine.dispose()  # as when the server was started anew
        return value

    study.optimize(cut, 1)
    study.optimize(objective, 1)
    assert len(study.get_trials()) == 5


READ_ONLY = """
import optuna, sys
from rlhf_tune import DQNSampler
storage = f"sqlite:///file:{sys.argv[1]}?mode=ro&uri=true"
study = optuna.load_study(storage=storage, study_name="s", sampler=DQNSampler(seed=0))
print(study.sampler.recommend(study), len(study.sampler.explain(study)))
study.optimize(lambda t: t.suggest_float("lr", 1e-5, 1e-1, log=True), 1)
"""


def test_a_read_only_database_can_be_read_and_says_so(place: Place) -> None:
    place.study().optimize(objective, 4)
    before = place.path.read_bytes()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_ONLY, place.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.startswith("{'lr': ")
    assert "readonly database" in run.stderr
    assert place.path.read_bytes() == before


FULL = """
import optuna, resource, signal, sys
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rlhf_tune import DQNSampler
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kind, path, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
storage = f"sqlite:///{path}" if kind == "sqlite" else JournalStorage(JournalFileBackend(path))
study = optuna.load_study(storage=storage, study_name="s", sampler=DQNSampler(seed=0))
study.optimize(lambda t: t.suggest_float("lr", 1e-5, 1e-1, log=True), 300)
"""


def test_a_full_disk_loses_no_finished_trial(place: Place) -> None:
    study = place.study()
    study.optimize(objective, 4)
    before, limit = study.get_trials(), place.path.stat().st_size + 2**12
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, "sqlite", place.path, str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "disk" in run.stderr
    after = place.study().get_trials()
    assert [t.value for t in after[:4]] == [t.value for t in before]
    again = place.study()
    again.optimize(objective, 2)
    done = [sum(t.state == TrialState.COMPLETE for t in trials) for trials in (after, again.trials)]
    assert done[1] == done[0] + 2


@pytest.mark.parametrize("foreign", ["complete", "running", "failed", "pruned", "waiting"])
def test_trials_of_others_are_taken_as_they_are(foreign: str, place: Place) -> None:
    study = place.study()
    study.optimize(objective, 3)
    state = TrialState[{"failed": "FAIL", "pruned": "PRUNED"}.get(foreign, foreign.upper())]
    other = optuna.distributions.FloatDistribution(-5, 5)
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=1.0 if foreign == "complete" else None,
            params={} if foreign == "waiting" else {"something_else": 0.5},
            distributions={} if foreign == "waiting" else {"something_else": other},
        )
    )
    study.optimize(objective, 4)
    assert study.get_trials()[3].params.get("something_else") == (
        None if foreign == "waiting" else 0.5
    )
    assert sum("lr" in t.params for t in study.get_trials()) >= 7


def test_another_direction_is_the_studys_own(place: Place) -> None:
    place.study(direction="maximize").optimize(objective, 3)
    study = place.study(direction="minimize")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    study.optimize(objective, 2)


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=DQNSampler(seed=0))
    with pytest.raises(ValueError, match="multi-objective"):
        study.optimize(lambda trial: (trial.suggest_float("lr", 1e-5, 1e-1), 0.0), 1)
