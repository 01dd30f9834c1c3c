"""Adapter of Lightning: `fit`, and the callback that it is made of.

The rate is moved, and states are verified or rolled back, after optimizer steps of Lightning's own
loop; `validation_step` and what it logs say how good a state is. Lightning's counters, loggers and
checkpoints see every step taken, discarded ones too.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping
from typing import Any, Unpack, cast, final

from rlhf_tune.errors import InvalidInputError, expect, require
from rlhf_tune.run.driving import Driving, Keywords
from rlhf_tune.run.history import History
from rlhf_tune.run.loops import Handover

# Before the adapter of PyTorch, so that what is missing is named by the extra that brings both.
expect("torch", extra="lightning")
L: Any = require("lightning.pytorch", extra="lightning")
_callbacks: Any = require("lightning.pytorch.callbacks", extra="lightning")

from rlhf_tune_integrations.pytorch.loops import LoopTrainer, check_alone  # noqa: E402
from rlhf_tune_integrations.pytorch.optimizers import usual_rate  # noqa: E402

# They set the rate or the weights themselves.
_RIVALS = ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging")


@final
class RunCallback(_callbacks.Callback):  # type: ignore[misc]
    """Drives `L.Trainer(callbacks=[RunCallback(...)], ...).fit(module)`; its budget is the run's.

    Attributes:
        history: Of the run, once it is over.
    """

    def __init__(self, *, trained: bool = False, **driving: Unpack[Keywords]) -> None:
        """Remember how to drive.

        Args:
            trained: Whether the module has learned its task before: the rate is then looked for
                from its own on, and gently.
            driving: The fields of `rlhf_tune.run.driving.Driving`, such as `constraints`.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self._driving, self._trained = Driving(**driving), trained
        self._handover = Handover()
        self._steps, self._losses = 0, list[Any]()

    @property
    def history(self) -> History | None:
        """Of the run; None before its end."""
        return cast("History | None", self._handover.result)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot be driven."""
        if stage == "fit":
            _check(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin: the state before training is the first one to go back to."""
        optimizer = _optimizer_of(trainer)
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self._steps = trainer.global_step
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        run = LoopTrainer(
            self._handover,
            pl_module,
            optimizer,
            lambda: _validated(trainer, self._driving.monitor),
            per_epoch,
            others=() if scaler is None else (scaler,),
            trained=self._trained,
        )
        left = trainer.estimated_stepping_batches - trainer.global_step
        drive, total = self._driving.drive, left / per_epoch
        if not self._handover.begin(
            lambda: drive(run, epochs=total, usual_rate=usual_rate(optimizer))
        ):
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step, which may take several batches, hand over."""
        if outputs:  # else the module skipped the batch
            self._losses.append(outputs["loss"])  # divided by the number of batches
        if trainer.global_step == self._steps:
            return
        whole = trainer.accumulate_grad_batches * float(sum(self._losses))
        loss = whole / len(self._losses) if self._losses else None
        self._steps, self._losses = trainer.global_step, []
        if not self._handover.stepped(loss):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """A loop that ended early ends the run."""
        self._handover.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """So does one that failed."""
        self._handover.end(exception)


def fit(
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    *,
    datamodule: Any = None,
    trainer: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    trained: bool = False,
    **driving: Unpack[Keywords],
) -> History:
    """Train a LightningModule while a policy moves the learning rate, verified or rolled back.

    Args:
        module: With `validation_step`, which logs the monitored metric ("val_loss"), and one
            optimizer without a scheduler.
        train_dataloaders: As for `Trainer.fit`, as are the next two.
        val_dataloaders: What states are judged by.
        datamodule: In place of both.
        trainer: Whose budget and devices are taken; default: a plain one.
        epochs: The budget in passes over the data, without a `trainer`.
        steps: The budget in optimizer steps, in place of `epochs`.
        trained: Whether the module has learned its task before; see `RunCallback`.
        driving: The fields of `rlhf_tune.run.driving.Driving`, such as `constraints`.

    Raises:
        InvalidInputError: If something is given that cannot be driven.
        CannotCertify: If no state satisfied the constraints; `best` is the module.
    """
    callback = RunCallback(trained=trained, **driving)
    if trainer is None:
        trainer = _plain_trainer(epochs, steps)
    elif epochs is not None or steps is not None:
        raise InvalidInputError(
            "the budget must be given once, but `trainer` has its own; leave `epochs` and `steps` "
            "out, or the trainer"
        )
    _check(trainer, module)
    heard = signal.getsignal(signal.SIGINT)
    trainer.callbacks.append(callback)
    try:
        trainer.fit(module, train_dataloaders, val_dataloaders, datamodule)
    except SystemExit:  # of Lightning, after Ctrl-C, from when on it hears no other
        if callback.history is None:
            raise
    finally:
        trainer.callbacks.remove(callback)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, heard)
    return cast(History, callback.history)


def _plain_trainer(epochs: int | None, steps: int | None) -> Any:
    if (epochs is None) == (steps is None):
        raise InvalidInputError(
            f"exactly one of `epochs` and `steps` must be given, but got epochs={epochs}, "
            f"steps={steps}"
        )
    return L.Trainer(
        max_epochs=-1 if epochs is None else epochs,
        max_steps=-1 if steps is None else steps,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def _check(trainer: Any, module: Any) -> None:
    check_alone(trainer.world_size, "the Lightning trainer")
    if not module.automatic_optimization:
        raise InvalidInputError(
            "the module must leave its optimizer steps to Lightning, but it has "
            "automatic_optimization=False; use rlhf_tune_integrations.pytorch.fit with train_step"
        )
    rivals = [type(c).__name__ for c in trainer.callbacks if type(c).__name__ in _RIVALS]
    if rivals:
        raise InvalidInputError(
            f"rate and weights must have one owner, but the trainer has {rivals}; leave that out"
        )
    if trainer.min_epochs or trainer.min_steps:
        raise InvalidInputError(
            f"a run must be free to end, but the trainer has min_epochs={trainer.min_epochs}, "
            f"min_steps={trainer.min_steps}; leave them out"
        )


def _optimizer_of(trainer: Any) -> Any:
    """The one optimizer, once all that Lightning makes of the module is known."""
    if len(trainer.optimizers) != 1:
        raise InvalidInputError(
            f"configure_optimizers must return one optimizer, but returned "
            f"{len(trainer.optimizers)}"
        )
    if trainer.lr_scheduler_configs:
        names = [type(each.scheduler).__name__ for each in trainer.lr_scheduler_configs]
        raise InvalidInputError(
            f"the learning rate must have one owner, but configure_optimizers returned {names} "
            f"too; return the optimizer alone: the policy warms up and decays the rate by itself"
        )
    if not trainer.enable_validation:
        raise InvalidInputError(
            "validation data and a `validation_step` must be given, as states are judged by them"
        )
    batches, total = trainer.num_training_batches, trainer.estimated_stepping_batches
    if not math.isfinite(batches) or not math.isfinite(total):
        raise InvalidInputError(
            f"a run must have a budget, but got {batches} batches an epoch and {total} steps; "
            f"give the trainer max_epochs or max_steps, and a stream limit_train_batches=N"
        )
    return trainer.optimizers[0]


def _validated(trainer: Any, monitor: str) -> Mapping[str, float]:
    """What the module logs in a whole pass over the validation data, for nobody else to hear."""
    connector = trainer._logger_connector  # as Lightning does, where it validates within an epoch
    callbacks, loggers, first = trainer.callbacks, trainer.loggers, connector._first_loop_iter
    trainer.callbacks, trainer.loggers = [], []
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training, connector._first_loop_iter = True, first
        trainer.callbacks, trainer.loggers = callbacks, loggers
    logged = trainer.callback_metrics
    return {k: float(v) for k, v in logged.items() if k.startswith("val") or k == monitor}
