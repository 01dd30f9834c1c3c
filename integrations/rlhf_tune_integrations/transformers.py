"""Adapter of Hugging Face's `Trainer`, and by it of TRL's trainers: `fit` in place of `train`.

The rate is moved, and states are verified or rolled back, after optimizer steps of the trainer's
own loop. Its counters, logs and checkpoints see every step taken, discarded ones too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Unpack, cast, final

from rlhf_tune.errors import InvalidInputError, expect, require
from rlhf_tune.run.driving import Driving, Keywords
from rlhf_tune.run.history import History
from rlhf_tune.run.loops import Handover

# Before the adapter of PyTorch, so that what is missing is named by the extra that brings both.
expect("torch", extra="transformers")
_hf: Any = require("transformers", extra="transformers")

from rlhf_tune_integrations.pytorch.loops import LoopTrainer, check_alone  # noqa: E402
from rlhf_tune_integrations.pytorch.optimizers import usual_rate  # noqa: E402

_PREFIX = "val"


def fit(
    trainer: Any,
    *,
    validation: Callable[[], Mapping[str, float]] | None = None,
    trained: bool | None = None,
    **driving: Unpack[Keywords],
) -> History:
    """Train a `transformers.Trainer`, verified or rolled back, while a policy moves the rate.

    Args:
        trainer: With lr_scheduler_type="constant"; its arguments have the budget
            (`num_train_epochs`, `max_steps`) and the first rate.
        validation: Metrics of the model as it is; default: those of the trainer's evaluation data,
            "val_loss" among them.
        trained: Whether the model has learned its task before: the rate is then looked for from
            its own on, and gently. Default: whether it was loaded (`from_pretrained`).
        driving: The fields of `rlhf_tune.run.driving.Driving`, such as `constraints`.

    Raises:
        InvalidInputError: If something is given that cannot be driven.
        CannotCertify: If no state satisfied the constraints; `best` is the model.
    """
    chosen = Driving(**driving)
    _check(trainer)
    if validation is None:
        if trainer.eval_dataset is None:
            raise InvalidInputError(
                "states must be judged by something, but the trainer has no eval_dataset; give it "
                "one, or `validation`"
            )
        validation = partial(_validated, trainer)
    if trained is None:
        trained = bool(getattr(trainer.model, "name_or_path", ""))
    hooks = _Hooks(trainer, chosen, validation, trained)
    trainer.add_callback(hooks)
    trainer.training_step = hooks.stepping(trainer.training_step)
    try:
        with suppress(_Over), hooks.handover.watching():
            trainer.train()
    finally:
        del trainer.training_step
        trainer.remove_callback(hooks)
    return cast(History, hooks.handover.result)


class _Over(Exception):  # noqa: N818 - not an error
    """The run is over before the first step, which the trainer would take all the same."""


@final
class _Hooks(_hf.TrainerCallback):  # type: ignore[misc]
    """Hands over where the trainer tells of its loop."""

    def __init__(self, trainer: Any, driving: Driving, validation: Any, trained: bool) -> None:
        self.handover = Handover()
        self._trainer, self._driving = trainer, driving
        self._validation, self._trained = validation, trained
        self._loss: Any = 0.0

    def stepping(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The trainer's step on a batch, whose loss callbacks are not told."""

        def stepped(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = step(model, inputs, *args, **kwargs)
            self._batches.append(inputs)
            self._loss = self._loss + loss.detach()  # a share of the loss of an optimizer step
            return loss

        return stepped

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        scaler = self._trainer.accelerator.scaler
        per_epoch = _steps_per_epoch(args, state, kwargs["train_dataloader"])
        self._optimizer, self._scheduler = optimizer, kwargs["lr_scheduler"]
        run = LoopTrainer(
            self.handover,
            self._trainer.model,
            optimizer,
            self._validation,
            per_epoch,
            others=() if scaler is None else (scaler,),
            trained=self._trained,
            forward=lambda inputs: self._trainer.model(**self._trainer._prepare_inputs(inputs)),
        )
        self._batches = run.batches
        drive, total = self._driving.drive, state.max_steps / per_epoch
        rate = usual_rate(optimizer)
        if not self.handover.begin(lambda: drive(run, epochs=total, usual_rate=rate)):
            raise _Over
        self._go(control, True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss, self._loss = float(self._loss), 0.0
        self._go(control, self.handover.stepped(loss))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.handover.end()

    def _go(self, control: Any, on: bool) -> None:
        """Go on; the constant scheduler sets the rate anew at each step, from what it is told."""
        scheduler = getattr(self._scheduler, "scheduler", self._scheduler)
        scheduler.base_lrs = [float(group["lr"]) for group in self._optimizer.param_groups]
        if not on:
            control.should_training_stop = True


def _check(trainer: Any) -> None:
    args = trainer.args
    check_alone(args.world_size, "the trainer")
    schedule = _hf.SchedulerType(args.lr_scheduler_type)
    # One that an earlier call left is not the user's, and the trainer makes it anew.
    handed_over = None if trainer._created_lr_scheduler else trainer.lr_scheduler
    if handed_over is not None or schedule is not _hf.SchedulerType.CONSTANT:
        given = schedule.value if handed_over is None else type(handed_over)
        raise InvalidInputError(
            f"the learning rate must have one owner, but the trainer's schedule is {given!r} (the "
            f"default is 'linear'); say lr_scheduler_type='constant': the policy warms up and "
            f"decays the rate by itself"
        )
    if args.load_best_model_at_end:
        raise InvalidInputError(
            "the model handed back must be the verified one, but load_best_model_at_end=True puts "
            "another in its place; leave it out"
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or args.n_gpu > 1:
        raise InvalidInputError(
            "a run must train in one process on one device, but the trainer uses DeepSpeed, FSDP "
            "or several GPUs; use one (CUDA_VISIBLE_DEVICES=0)"
        )


def _steps_per_epoch(args: Any, state: Any, loader: Any) -> int:
    """Optimizer steps of a pass; a stream is one pass."""
    try:
        batches = len(loader)
    except TypeError:
        return int(state.max_steps)
    return math.ceil(batches / int(args.gradient_accumulation_steps))


def _validated(trainer: Any) -> Mapping[str, float]:
    """By the trainer's own loop, which tells neither callbacks nor logs.

    Of several data sets the metrics have their names too, and the loss is the mean over samples.
    """
    several = isinstance(trainer.eval_dataset, dict)
    only_loss = True if trainer.compute_metrics is None else None
    metrics: dict[str, float] = {}
    total, samples = 0.0, 0
    for name in trainer.eval_dataset if several else [None]:
        prefix = f"{_PREFIX}_{name}" if several else _PREFIX
        loader = trainer.get_eval_dataloader(name)
        output = trainer.evaluation_loop(loader, "Validation", only_loss, metric_key_prefix=prefix)
        if f"{prefix}_loss" not in output.metrics:
            raise InvalidInputError(
                f"states must be judged by something, but the trainer's evaluation gave no loss: "
                f"its label_names are {trainer.label_names}; say which columns are labels, or give "
                f"`validation`"
            )
        metrics |= {k: v for k, v in output.metrics.items() if isinstance(v, int | float)}
        total += output.metrics[f"{prefix}_loss"] * output.num_samples
        samples += output.num_samples
    return {**metrics, f"{_PREFIX}_loss": total / samples} if several else metrics
