"""`model.fit` with moves of learning rate and batch size inside the run, each verified."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import keras

from rlhf_tune.errors import CannotCertify
from rlhf_tune.run.checkpoints import attach
from rlhf_tune.run.display import taken_up, verified
from rlhf_tune.run.driver import Run, budget, reach_of
from rlhf_tune.run.history import Epoch, History
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.keras.arguments import (
    Listeners,
    check_arguments,
    check_call,
    listed,
    mode_by_keras,
    usual_rate,
)
from rlhf_tune_integrations.keras.batches import Shuffle
from rlhf_tune_integrations.keras.intake import check_size
from rlhf_tune_integrations.keras.plain import plain_fit
from rlhf_tune_integrations.keras.progress import Progress
from rlhf_tune_integrations.keras.recorded import KerasHistory
from rlhf_tune_integrations.keras.trainer import KerasTrainer

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")


def fit(  # noqa: D417 - the arguments of model.fit are documented there
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    verbose: Literal["auto"] | int = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: Shuffle = True,
    class_weight: dict[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | list[int] = 1,
    *,
    steps: int | None = None,
    constraints: Sequence[Constraint] = (),
    monitor: str = "val_loss",
    mode: ModeName = "auto",
    policy: str | RunPolicy = "default",
    checkpoint: str | Path | None = None,
    verify_every: int = 1,
    reach: bool = False,
    groups: Any = None,
    seed: int | None = None,
) -> keras.callbacks.History:
    """Train a compiled model as `model.fit` does, while a policy moves the learning rate.

    The arguments up to `validation_freq` are those of `model.fit`; validation data is required.
    Each stretch of training is verified: it is rolled back if it diverged, became much worse, or
    violates a constraint that held before. `epochs` is the budget, which range tests and discarded
    stretches are charged to, so there may be fewer epochs in the history. The model ends at its
    best verified state. Callbacks see an epoch after it is committed. With policy="constant" this
    is `model.fit`, bit for bit, while the constraints hold. Ctrl-C ends the run as if the budget
    were spent; an exception carries the `history` so far.

    Validation data that come from a generator are read once, for `validation_steps` batches, so
    that all states are compared on the same samples. In a model of several outputs their losses
    are weighed by samples in validation; Keras on TensorFlow weighs by batches, and so does
    policy="constant".

    Args:
        model: Compiled; on the TensorFlow or the torch backend.
        steps: The budget in training steps at the first batch size, in place of `epochs`, which
            is 1 where neither is given.
        constraints: What the model handed back satisfies, such as
            `rlhf_tune.safety.RobustAccuracy`.
        monitor: What is better: a key of the validation metrics.
        mode: Whether less of it is better, or more; "auto" knows Keras' metrics.
        policy: "default", "dqn", "grow", "bold" or "constant" (see `rlhf_tune.run.policies`), or
            an agent: `RunPolicy.of(agent)`.
        checkpoint: A folder in which the run is written after every stretch; not with
            policy="constant". The same call goes on from there after a kill, and returns at once
            where the run is over; without the folder it begins anew.
        verify_every: The constraints are measured after every so many stretches, and before the
            model is handed back.
        reach: Whether to train against bounds that are missed: each constraint's remedy is a term
            that `compute_loss` gains while training, whose weight the run moves, as
            `adversarial_weight`, a key of the history. Half of the constraints' samples steer, half
            certify.
        groups: The group of each training sample, an array [N] or several by name, where
            `GroupFairness` is reached for: its weight is `fair_weight`. Data that are no arrays
            have them as a further element of the batch: (x, y, groups).
        seed: Of the order of arrays; None draws one as Keras does, from `random`. With
            policy="constant" the order is that of `model.fit`.

    Returns:
        Keras' history, with the keys learning_rate, batch_size, move, rolled_back and one for each
        constraint. Its attributes `discarded`, `range_test`, `interrupted`, `verification`,
        `knobs`, `certificate`, `bounds` and `returned` are those of `rlhf_tune.run.History`, and
        it prints as a table like that.

    Raises:
        InvalidInputError: If an argument breaks its rule, or two sides set the learning rate.
        UnsupportedModelError: If the model cannot be driven, with the reason.
        CannotCertify: If no state satisfied the constraints; `best` is the model, at its best, and
            `history` what would have been returned.
    """
    check_call(policy, checkpoint)
    listeners = listed(callbacks)
    data: dict[str, Any] = {
        "batch_size": batch_size,
        "validation_split": validation_split,
        "validation_data": validation_data,
        "shuffle": shuffle,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        "steps_per_epoch": steps_per_epoch,
        "validation_steps": validation_steps,
        "validation_batch_size": validation_batch_size,
    }
    shown: dict[str, Any] = {"initial_epoch": initial_epoch, "validation_freq": validation_freq}
    shown |= {"epochs": 1 if epochs is None and steps is None else epochs, "verbose": verbose}
    reaching = reach_of(constraints) if reach else None
    if policy == "constant" and not constraints and steps is None and groups is None:
        return _note(*plain_fit(model, x, y, listeners, monitor, mode, **shown, **data))
    check_arguments(model, listeners, policy, constraints)
    data |= {"seed": _seed(seed, policy), "remedies": _remedies(reaching), "groups": groups}
    with closing(KerasTrainer(model, x, y, keras_loop=policy == "constant", **data)) as trainer:
        return _Told(trainer, listeners, steps=steps, **shown).run(
            written=(checkpoint, seed),
            policy=policy,
            constraints=constraints,
            monitor=monitor,
            mode=mode_by_keras(model, monitor, mode),
            verify_every=verify_every,
            reach=reaching,
        )


def _remedies(reach: Any) -> Any:
    return reach.remedies.values() if reach else ()


class _Told:
    """Runs a trainer, and tells Keras' callbacks of it as one `model.fit` would.

    The progress bar follows each step; the user's callbacks hear of an epoch, its batches
    included, once it is committed.
    """

    def __init__(
        self,
        trainer: KerasTrainer,
        listeners: Listeners,
        *,
        epochs: int | None,
        steps: int | None,
        initial_epoch: int,
        validation_freq: int | list[int],
        verbose: Any,
    ) -> None:
        check_size("epochs", epochs)
        self._trainer, self._model = trainer, trainer.model
        total = None if epochs is None else epochs - initial_epoch
        self._budget = budget(total, steps, trainer.steps_per_epoch)
        epochs = initial_epoch + math.ceil(self._budget)
        self._first, self._validation_freq = initial_epoch, validation_freq
        self._history = KerasHistory()
        steps = trainer.steps_per_epoch
        self._callbacks = keras.callbacks.CallbackList(
            [*listeners, self._history],
            model=self._model,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )
        self._progress = Progress(self._model, verbose=verbose, epochs=epochs, steps=steps)
        self._hears_test_batches = _hears(listeners, _TEST_BATCH_HOOKS)
        trainer.keeps_steps = _hears(listeners, _BATCH_HOOKS)
        trainer.on_step = self._step
        self._last_logs: dict[str, Any] = {}

    def run(
        self, *, written: tuple[str | Path | None, int | None], **arguments: Any
    ) -> keras.callbacks.History:
        """Train; `written` is the folder and the given seed, the rest `rlhf_tune.run.Run`'s."""
        self._model.stop_training = False
        self._callbacks.on_train_begin()
        self._run = Run(
            self._trainer,
            epochs=self._budget,
            usual_rate=usual_rate(self._model.optimizer),
            on_stretch=self._judged,
            **arguments,
        )
        self._attach(*written)
        if self._run.running:
            self._begin(self._first + len(self._run.history.epoch))
        try:
            self._drive()
        except BaseException as exc:
            history = _note(self._history, self._run.history)
            exc.__dict__.update(history=history, best=self._model)
            raise
        return self._history

    def _drive(self) -> None:
        try:
            self._run.drive(self._commit)
        except CannotCertify:
            self._end()
            raise
        self._end()

    def _attach(self, folder: str | Path | None, seed: int | None) -> None:
        about = {"seed": seed, "initial_epoch": self._first}
        if folder is not None and attach(self._run, folder, [self], about):
            self._progress.say(taken_up(self._run.history))

    def state_dict(self) -> dict[str, Any]:
        """Keras' history, which has more than the run's."""
        history = {k: [_plainly(v) for v in column] for k, column in self._history.history.items()}
        last = {name: _plainly(value) for name, value in self._last_logs.items()}
        return {"history": history, "epoch": list(self._history.epoch), "logs": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._history.history, self._history.epoch = state["history"], state["epoch"]
        self._last_logs = state["logs"]

    def _step(self, number: int, logs: dict[str, Any]) -> None:
        self._progress.resize(self._trainer.steps_per_epoch)
        self._progress.step(number, logs)

    def _judged(self, stretch: Stretch) -> None:
        tested = len(self._run.history.range_test)
        if tested and len(self._run.guarded.record) == 1:
            self._progress.range_test(tested, stretch.learning_rate)
        self._progress.stretch(stretch)

    def _begin(self, epoch: int) -> None:
        self._trainer.validates = self._model._should_eval(epoch, self._validation_freq)
        self._callbacks.on_epoch_begin(epoch)
        self._progress.begin(epoch, self._trainer.steps_per_epoch)

    def _commit(self, epoch: Epoch) -> None:
        """Tell of an epoch as if it had just been trained."""
        number = self._first + epoch.number
        for step, logs in self._trainer.steps:
            self._callbacks.on_train_batch_begin(step)
            self._callbacks.on_train_batch_end(step, logs)
        logs = {**epoch.logs, **self._trainer.vectors, **self._trainer.epoch_logs()}
        move = logs.pop("move")  # callbacks such as TensorBoard take numbers only
        validated = {key: logs.pop(key) for key in list(logs) if key.startswith("val_")}
        if self._model._should_eval(number, self._validation_freq):
            logs |= validated
            self._tell_validation(validated)
        margins = {f"{m.name} margin": -m.cost for m in epoch.measurements.values()}
        self._progress.end({**logs, **margins})
        self._callbacks.on_epoch_end(number, logs)
        self._history.history.setdefault("move", []).append(move)
        self._last_logs = logs
        if self._model.stop_training:
            self._run.stop()
        elif self._run.guarded.left:
            self._begin(number + 1)

    def _tell_validation(self, logs: dict[str, Any]) -> None:
        if self._hears_test_batches:
            self._trainer.evaluate(self._callbacks)
            return
        self._callbacks.on_test_begin()
        self._callbacks.on_test_end({key.removeprefix("val_"): v for key, v in logs.items()})

    def _end(self) -> None:
        """The model is what is handed back; callbacks see it, and leave its weights alone."""
        if took := verified(self._run.history):
            self._progress.say(took)
        _note(self._history, self._run.history)
        self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        kept = self._trainer.snapshot()
        try:
            self._callbacks.on_train_end(self._last_logs)
        finally:
            self._trainer.restore(kept)


def _note(history: keras.callbacks.History, ours: History) -> keras.callbacks.History:
    """What Keras' history does not know."""
    history.discarded, history.range_test = ours.discarded, ours.range_test
    history.interrupted, history.verification = ours.interrupted, ours.verification
    history.knobs, history.certificate = ours.knobs, ours.certificate
    history.bounds, history.returned = ours.bounds, ours.returned
    for key, column in history.history.items():
        whole = key in ("batch_size", "rolled_back")  # Keras makes floats of them
        history.history[key] = [int(v) if whole else _plainly(v) for v in column]
    return history


def _plainly(value: Any) -> Any:
    """What a callback wrote into the logs, without NumPy or tensors, so that JSON takes it."""
    if isinstance(value, str) or not hasattr(value, "dtype"):
        return value
    return keras.ops.convert_to_numpy(value).tolist()


def _hears(listeners: Listeners, hooks: Iterable[str]) -> bool:
    base = keras.callbacks.Callback
    return any(
        hook in vars(c) or getattr(type(c), hook) is not getattr(base, hook)
        for c in listeners
        for hook in hooks
    )


def _seed(given: int | None, policy: object) -> int:
    if given is not None or policy == "constant":  # that has the order of model.fit
        return given or 0
    return random.randrange(2**31)  # noqa: S311 - as Keras draws the seeds of its layers
