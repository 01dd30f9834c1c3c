"""The job: a study of learning rate and batch size, and a held-out measurement of its choice."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from rich.console import Console

from rlhf_tune import files
from rlhf_tune.demo import plot, report, study
from rlhf_tune.demo.data import Data, load
from rlhf_tune.demo.lock import alone
from rlhf_tune.demo.progress import Progress, progress
from rlhf_tune.demo.settings import Settings
from rlhf_tune.errors import CannotCertify, InvalidInputError, require
from rlhf_tune.safety import Measurement, RobustAccuracy
from rlhf_tune.study.sampler import DQNSampler

LEARNING_RATES = (1e-5, 1e-1)
BATCH_SIZES = (16, 256)

_RETRAIN = 2**31  # in place of a trial's number, so that the final training has a seed of its own
_MODELS = {"keras": "model.keras", "torch": "model.safetensors"}


class Network(Protocol):
    """A module that trains one framework's network: `keras_cnn` or `torch_cnn`."""

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Any:
        """A network from images [B, *shape] to logits [B, classes]."""

    def train(
        self,
        model: Any,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        *,
        learning_rate: float,
        batch_size: int,
        epochs: int,
        seed: int,
        on_epoch: Callable[[int], None],
    ) -> None:
        """Train in place; `on_epoch` gets the number of epochs done."""

    def logits(self, model: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits [N, classes] of images [N, H, W, C]."""

    def save(self, model: Any, path: Path) -> None:
        """Write the trained model."""


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
    data = load(settings.data, max_train=settings.max_train)
    constraint = RobustAccuracy(
        data.x_validation,
        data.y_validation,
        eps=settings.eps,
        at_least=settings.min_robust_accuracy,
        name="robust_accuracy",
    )
    network = cast(Network, importlib.import_module(f"rlhf_tune.demo.{settings.framework}_cnn"))
    _make(settings.folder)
    with alone(settings.folder):
        if fresh:
            _delete(settings.folder)
        with _one_thread(), study.opened(settings) as trials:
            job = _Job(settings, data, network, constraint, trials, console)
            job.finish_trials()
            summary = job.conclude()
        _write(settings.folder, summary)
    report.show(summary, settings.folder, console)
    return bool(summary["verdict"] == "satisfied")


@final
class _Job:
    """The parts that a trial needs, at hand."""

    def __init__(
        self,
        settings: Settings,
        data: Data,
        network: Network,
        constraint: RobustAccuracy,
        trials: optuna.Study,
        console: Console,
    ) -> None:
        self._settings, self._data, self._network = settings, data, network
        self._constraint, self._study, self._console = constraint, trials, console

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
        summary = report.summarize(self._settings, self._data, self._study, sampler)
        try:
            params = sampler.recommend(self._study)
        except CannotCertify as exc:
            return summary | {"verdict": "cannot certify", "reason": str(exc)}
        with progress(self._console, 1, 0, self._settings.epochs) as shown:
            shown.started("retraining the recommended setting", params)
            model = self._train(params, _RETRAIN, shown)
        path = self._settings.folder / _MODELS[self._settings.framework]
        self._network.save(model, path)
        x, y = self._data.x_test, self._data.y_test
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
        return summary | report.outcome(params, path.name, self._loss(model, x, y), under)

    def _measure(self, trial: optuna.Trial, shown: Progress) -> float:
        """The objective: validation loss after training; NaN, a failed trial, where it diverged.

        The loss and not the accuracy, which on a few hundred images takes a few dozen values and
        is the same for many settings. At most that of guessing, so that one setting that blew up
        does not hide the differences between the others.
        """
        params = {
            "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            "batch_size": trial.suggest_int("batch_size", *BATCH_SIZES, log=True),
        }
        shown.started(f"trial {trial.number + 1}", params)
        model = self._train(params, trial.number, shown)
        loss = self._loss(model, self._data.x_validation, self._data.y_validation)
        if math.isnan(loss):
            return loss
        _record(trial, self._constraint(model))
        return min(loss, math.log(self._data.classes))

    def _train(self, params: Mapping[str, Any], number: int, shown: Progress) -> Any:
        """A network trained by a random stream of this trial's own."""
        seed = int(np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0])
        model = self._network.build(self._data.shape, self._data.classes, seed)
        self._network.train(
            model,
            self._data.x_train,
            self._data.y_train,
            learning_rate=params["learning_rate"],
            batch_size=params["batch_size"],
            epochs=self._settings.epochs,
            seed=seed,
            on_epoch=shown.epoch,
        )
        return model

    def _loss(self, model: Any, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        """Mean cross-entropy in nats."""
        logits = self._network.logits(model, x)
        logits = logits - logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(y)), y]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - own))


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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: on networks this small others wait more than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
