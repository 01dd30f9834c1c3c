"""`model.fit` with moves of learning rate and batch size inside the run, each verified."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Literal

import keras

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.driver import Epoch, History, ModeName, Run, reach_of
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.keras.arguments import (
    Listeners,
    check_arguments,
    listed,
    mode_by_keras,
    usual_rate,
)
from rlhf_tune_integrations.keras.batches import Shuffle, size_of_batches
from rlhf_tune_integrations.keras.intake import check_size
from rlhf_tune_integrations.keras.progress import Progress
from rlhf_tune_integrations.keras.trainer import KerasTrainer

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")


def fit(  # noqa: D417 - the arguments of model.fit are documented there
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
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
    constraints: Sequence[Constraint] = (),
    monitor: str = "val_loss",
    mode: ModeName = "auto",
    policy: str | RunPolicy = "default",
    reach: bool = False,
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
        constraints: What the model handed back satisfies, such as
            `rlhf_tune.safety.RobustAccuracy`.
        monitor: What is better: a key of the validation metrics.
        mode: Whether less of it is better, or more; "auto" knows Keras' metrics.
        policy: "default", "dqn", "grow", "bold" or "constant" (see `rlhf_tune.run.policies`), or
            an agent: `RunPolicy.of(agent)`.
        reach: Whether to train against bounds that are missed: each constraint's remedy is a term
            that `compute_loss` gains while training, whose weight the run moves, as
            `adversarial_weight`, a key of the history. Half of the constraints' samples steer, half
            certify.
        seed: Of the order of arrays; None draws one as Keras does, from `random`. With
            policy="constant" the order is that of `model.fit`.

    Returns:
        Keras' history, with the keys learning_rate, batch_size, move, rolled_back and one for each
        constraint. Its attributes `discarded`, `range_test`, `interrupted`, `knobs` and
        `certificate` are those of `rlhf_tune.run.History`.

    Raises:
        InvalidInputError: If an argument breaks its rule, or two sides set the learning rate.
        UnsupportedModelError: If the model cannot be driven, with the reason.
        CannotCertify: If no state satisfied the constraints; `best` is the model, at its best, and
            `history` what would have been returned.
    """
    _check_validation(validation_data, validation_split)
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
    shown: dict[str, Any] = {
        "epochs": epochs,
        "initial_epoch": initial_epoch,
        "validation_freq": validation_freq,
        "verbose": verbose,
    }
    reaching = reach_of(constraints) if reach else None
    if policy == "constant" and not constraints:
        return _plain(model, x, y, listeners, **shown, **data)
    check_arguments(model, listeners, policy, constraints)
    data |= {"seed": _seed(seed, policy), "keras_loop": policy == "constant"}
    data["remedies"] = tuple(reaching.remedies.values()) if reaching else ()
    with closing(KerasTrainer(model, x, y, **data)) as trainer:
        return _Told(trainer, listeners, **shown).run(
            policy=policy,
            constraints=constraints,
            reach=reaching,
            monitor=monitor,
            mode=mode_by_keras(model, monitor, mode),
            usual_rate=usual_rate(model.optimizer),
        )


def _check_validation(data: Any, split: float) -> None:
    if data is None and not split:
        raise InvalidInputError("`validation_data` or `validation_split` must be given")


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
        epochs: int,
        initial_epoch: int,
        validation_freq: int | list[int],
        verbose: Any,
    ) -> None:
        check_size("epochs", epochs)
        self._trainer, self._model = trainer, trainer.model
        self._first, self._epochs, self._validation_freq = initial_epoch, epochs, validation_freq
        self._history = keras.callbacks.History()
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

    def run(self, **arguments: Any) -> keras.callbacks.History:
        """Train; the arguments are those of `rlhf_tune.run.Run`."""
        self._model.stop_training = False
        self._callbacks.on_train_begin()
        self._run = Run(
            self._trainer,
            epochs=self._epochs - self._first,
            on_stretch=self._judged,
            **arguments,
        )
        self._begin(self._first)
        try:
            self._run.drive(self._commit)
        except CannotCertify as exc:
            self._end()
            exc.history = self._history
            raise
        except Exception as exc:
            exc.history = _note(self._history, self._run.history)  # type: ignore[attr-defined]
            raise
        self._end()
        return self._history

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
        _note(self._history, self._run.history)
        self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        kept = self._trainer.snapshot()
        self._callbacks.on_train_end(self._last_logs)
        self._trainer.restore(kept)


class _Rates(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes down the learning rate with which each epoch ended."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not hasattr(self.model.optimizer, "optimizers"):  # a MultiOptimizer has several
            self.rates.append(float(self.model.optimizer.learning_rate))


def _plain(
    model: keras.Model, x: Any, y: Any, listeners: Listeners, **arguments: Any
) -> keras.callbacks.History:
    """`model.fit`, and the keys that it does not write."""
    rates, history, ours = _Rates(), keras.callbacks.History(), History()
    try:
        model.fit(x, y, callbacks=[rates, *listeners, history], **arguments)
    except KeyboardInterrupt:
        ours.interrupted = True
    except Exception as exc:
        exc.history = history  # type: ignore[attr-defined]
        raise
    n = len(history.epoch)
    if rates.rates:
        history.history.setdefault("learning_rate", rates.rates[:n])
    size = size_of_batches(x, y, arguments["batch_size"], arguments["steps_per_epoch"])
    if size is not None:
        history.history["batch_size"] = [size] * n
    history.history |= {"move": ["stay"] * n, "rolled_back": [0] * n}
    return _note(history, ours)


def _note(history: keras.callbacks.History, ours: History) -> keras.callbacks.History:
    """What Keras' history does not know."""
    history.discarded, history.range_test = ours.discarded, ours.range_test
    history.interrupted = ours.interrupted
    history.knobs, history.certificate = ours.knobs, ours.certificate
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
