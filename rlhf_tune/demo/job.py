"""The job: a study of learning rate and batch size, and a held-out measurement of its choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, final

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from rlhf_tune import files
from rlhf_tune.demo import plot, report, study
from rlhf_tune.demo.experiment import BATCH_SIZES, LEARNING_RATES, Experiment, one_thread
from rlhf_tune.demo.lock import alone
from rlhf_tune.demo.progress import Progress, progress
from rlhf_tune.demo.settings import Settings
from rlhf_tune.errors import CannotCertify, InvalidInputError, require
from rlhf_tune.safety import Measurement, RobustAccuracy
from rlhf_tune.study.sampler import DQNSampler

_RETRAIN = 2**31  # in place of a trial's number, so that the final training has a seed of its own
_MODELS = {"keras": "model.keras", "torch": "model.safetensors"}


def run(settings: Settings, console: Console, *, fresh: bool = False) -> bool:
    """Run the job, or what is left of it, and write the run's folder.

    Args:
        settings: What to do.
        console: Where progress and the final table are shown.
        fresh: Delete this run's own files first.

    Returns:
        Whether a setting was found that keeps the constraint on the held-out images.

    Raises:
        InvalidInputError: If a setting or the data breaks a rule, or the run in the folder was
            made with other settings, or another process is at it.
        MissingExtraError: If a package is not installed.
    """
    for package in ("filelock", "matplotlib"):
        require(package, extra="demo")
    experiment = Experiment.of(settings)
    _make(settings.folder)
    with alone(settings.folder):
        if fresh:
            _delete(settings.folder)
        with one_thread(), study.opened(settings) as trials:
            job = _Job(experiment, trials, console)
            job.finish_trials()
            summary = job.conclude()
        _write(settings.folder, summary)
    report.show(summary, settings.folder, console)
    return bool(summary["verdict"] == "satisfied")


@final
class _Job:
    """The parts that a trial needs, at hand."""

    def __init__(self, experiment: Experiment, trials: optuna.Study, console: Console) -> None:
        self._experiment, self._study, self._console = experiment, trials, console
        self._settings = experiment.settings

    def finish_trials(self) -> None:
        """Run the trials that are missing; one that was interrupted is run to its end."""
        trials, total, done = self._study, self._settings.trials, len(study.finished(self._study))
        if study.is_over(trials, total):
            self._console.print(f"{done} trials are done; only the report is made again")
            return
        if done:
            self._console.print(f"{done} of {total} trials are done; going on")
        with progress(self._console, total, done, self._settings.epochs) as shown:

            def objective(trial: optuna.Trial) -> float:
                return self._measure(trial, shown)

            def tell(trials: optuna.Study, trial: FrozenTrial) -> None:
                shown.finished(report.trial_row(trial), report.best(study.finished(trials)))

            study.finish(trials, total, objective, tell)

    def conclude(self) -> dict[str, Any]:
        """Retrain the recommended setting, measure it on the held-out images, sum up."""
        sampler = cast(DQNSampler, self._study.sampler)
        summary = report.summarize(self._settings, self._experiment.data, self._study, sampler)
        try:
            chosen = sampler.recommendation(self._study)
        except CannotCertify as exc:
            return summary | {"verdict": "cannot certify", "reason": str(exc)}
        with progress(self._console, 1, 0, self._settings.epochs) as shown:
            shown.started("retraining the recommended setting", chosen.params)
            model = self._experiment.train(chosen.params, _RETRAIN, shown.epoch)
        path = self._settings.folder / _MODELS[self._settings.framework]
        self._experiment.network.save(model, path)
        x, y = self._experiment.data.x_test, self._experiment.data.y_test
        under = {
            name: RobustAccuracy(
                x,
                y,
                eps=self._settings.eps,
                at_least=self._settings.min_robust_accuracy,
                full=full,
                seed=self._settings.seed,
            )(model)
            for name, full in {"FGSM": False, "noise, FGSM, PGD": True}.items()
        }
        return summary | report.outcome(
            chosen, path.name, self._experiment.loss(model, x, y), under
        )

    def _measure(self, trial: optuna.Trial, shown: Progress) -> float:
        """The objective: validation loss after training; NaN, a failed trial, where it diverged."""
        params = {
            "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            "batch_size": trial.suggest_int("batch_size", *BATCH_SIZES, log=True),
        }
        shown.started(f"trial {trial.number}", params)
        loss, measurement = self._experiment.measure(params, trial.number, shown.epoch)
        if measurement is not None:
            _record(trial, measurement)
        return loss


def _record(trial: optuna.Trial, measurement: Measurement) -> None:
    """Constrain a trial, and repeat it where optuna-dashboard shows it."""
    trial.set_constraint(measurement.name, measurement.cost)
    trial.set_user_attr("robust_accuracy_constraint", measurement.cost)
    trial.set_user_attr("robust_accuracy", measurement.value)
    trial.set_user_attr("clean_accuracy", measurement.details["clean_accuracy"])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidInputError(f"{folder} must be a folder to write to, but: {exc}") from exc


def _delete(folder: Path) -> None:
    """Remove what this job writes, and nothing else."""
    for name in (study.FILE, *report.FILES, plot.FILE, *_MODELS.values()):
        (folder / name).unlink(missing_ok=True)


def _write(folder: Path, summary: Mapping[str, Any]) -> None:
    text = json.dumps(summary, indent=2, sort_keys=True, allow_nan=False)
    plot.draw(summary, folder / plot.FILE)
    files.write(folder / "summary.md", report.markdown(summary))
    files.write(folder / "summary.json", text + "\n")
