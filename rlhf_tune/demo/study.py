"""The run's Optuna study: opened, continued where it stopped, and refused to other settings."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError

from rlhf_tune.demo.settings import Settings
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.sampler import DQNSampler

FILE = "study.db"

_ENDED = "ended_at"

Objective = Callable[[optuna.Trial], float]
Tell = Callable[[optuna.Study, FrozenTrial], None]


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[optuna.Study]:
    """The run's study, new or as it was left; closed on leaving.

    Raises:
        InvalidInputError: If it cannot be read, or was begun with other settings.
    """
    path = settings.folder / FILE
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the progress display speaks instead
    try:
        storage = RDBStorage(f"sqlite:///{path.resolve()}")
    except DatabaseError as exc:
        raise InvalidInputError(
            f"{path} must be a study of this job, but cannot be read; use --fresh or another --name"
        ) from exc
    try:
        study = optuna.create_study(
            storage=storage,
            sampler=DQNSampler(seed=settings.seed, budget=settings.trials),
            study_name=settings.name,
            load_if_exists=True,
        )
        _check_same(study, settings)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are over, failed ones included."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]


def is_over(study: optuna.Study, total: int) -> bool:
    """Whether no trial of `total` is missing, or the sampler ended the study before."""
    done = len(finished(study))
    return done >= total or study.user_attrs.get(_ENDED) == done


def finish(study: optuna.Study, total: int, objective: Objective, tell: Tell) -> None:
    """Run the trials that are missing of `total`; `tell` is called after each.

    Raises:
        KeyboardInterrupt: On Ctrl-C; what it interrupts is continued the next time.
    """
    try:
        _continue_interrupted(study, objective, tell)
        left = total - len(finished(study))
        if left > 0:
            study.optimize(_interruptible(objective), left, callbacks=[tell])
    except _Interrupted as exc:
        raise KeyboardInterrupt from exc
    if len(finished(study)) < total:  # the sampler saw no way on, and would see none again
        study.set_user_attr(_ENDED, len(finished(study)))


def _continue_interrupted(study: optuna.Study, objective: Objective, tell: Tell) -> None:
    """Run the trial that an interrupted or killed run left behind.

    It keeps its number, and so its parameters and random streams: a resumed study equals an
    uninterrupted one, wherever it stopped.
    """
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = optuna.Trial(study, frozen._trial_id)  # as `study.ask` does; nothing public does
        loss = objective(trial)
        if math.isnan(loss):
            tell(study, study.tell(trial, state=TrialState.FAIL))
        else:
            tell(study, study.tell(trial, loss))


class _Interrupted(BaseException):
    """Ctrl-C within a trial, as Optuna lets it pass: the trial stays to be continued."""


def _interruptible(objective: Objective) -> Objective:
    """Optuna fails a trial on `KeyboardInterrupt`, and a failed trial is not run again."""

    def wrapped(trial: optuna.Trial) -> float:
        try:
            return objective(trial)
        except KeyboardInterrupt as exc:
            raise _Interrupted from exc

    return wrapped


def _check_same(study: optuna.Study, settings: Settings) -> None:
    """Note a new study's settings; refuse others for one that exists."""
    noted = study.user_attrs.get("settings")
    if noted is None:
        study.set_user_attr("settings", settings.fixed)
        return
    for key, value in settings.fixed.items():
        if noted.get(key) != value:
            raise InvalidInputError(
                f"a run must go on with the settings it began with, but {settings.folder} has "
                f"{key}={noted.get(key)!r} and {value!r} was asked; use --fresh to start anew, "
                f"or another --name"
            )
