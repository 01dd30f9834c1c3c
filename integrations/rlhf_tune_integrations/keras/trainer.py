"""Drives the training of a Keras model in stretches; see `rlhf_tune.envs.Trainer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import keras
from keras.src.utils.python_utils import pythonify_logs

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.run.trainer import Metrics
from rlhf_tune_integrations.keras import saving
from rlhf_tune_integrations.keras.arguments import (
    check_model,
    check_trained,
    check_whole,
    fixed_batch,
)
from rlhf_tune_integrations.keras.batches import (
    ArrayBatches,
    Batches,
    Place,
    Shuffle,
    split,
)
from rlhf_tune_integrations.keras.intake import (
    check_batch_size,
    check_data,
    check_size,
    fault_in_batches,
)
from rlhf_tune_integrations.keras.loop import lasting, training_data
from rlhf_tune_integrations.keras.rate import Rate
from rlhf_tune_integrations.keras.snapshot import KerasSnapshot
from rlhf_tune_integrations.keras.statistics import knowledge, normalising, refresh
from rlhf_tune_integrations.keras.streams import restore_streams, streams
from rlhf_tune_integrations.keras.validation import Validation, loss_tracker, tracked, weigh_outputs
from rlhf_tune_integrations.keras.variables import (
    all_finite,
    assign,
    global_seeds,
    modes,
    own_step,
    train_mode,
    values,
    variables_of,
)

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy
    from rlhf_tune_integrations.keras.knobs import Knobs

Logs = dict[str, Any]

# Steps between two looks at the loss: on a GPU each one waits for the steps before it.
_LOOK_EVERY = 10
_REFRESHING = 20  # batches
_KNOWLEDGE_SAMPLES = 256


class KerasTrainer:
    """A compiled Keras model, trained in stretches by its own training step.

    The arguments are those of `model.fit`. The batch size can be changed where `x` holds arrays,
    else it is the data's own. With `jit_compile` it keeps to its first value times a power of two,
    as each size is compiled. Where the optimizer has a learning-rate schedule, setting the rate
    multiplies the schedule by a factor, until `close`.

    Attributes:
        model: The model.
        on_step: Called after each execution of the training step with the number of the step in
            its epoch and Keras' logs.
        steps: Those calls of the present epoch, where `keeps_steps` asks for them.
        keeps_steps: Whether they are kept.
        vectors: Of the last `evaluate`, metrics that are no single numbers.
        validates: Whether the next `evaluate` is the one that Keras' own loop would do here, and
            so may draw from random streams; only with `keras_loop`.

    Args:
        remedies: Terms added to the training loss, whose weights are hyperparameters.
        groups: Of the training samples, where a remedy asks for them: an array [N], or several by
            name. Data that are no arrays have them as a further element of the batch.
        seed: Of the order of arrays.
        keras_loop: Whether the data come as `model.fit` takes them, in its order and with its
            draws from random streams. Then going back does not go back in the data.

    Raises:
        UnsupportedModelError: If the model cannot be driven, with the reason.
        InvalidInputError: If there is no validation data, or an epoch's length is not known.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        validation_data: Any = None,
        validation_split: float = 0.0,
        shuffle: Shuffle = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        remedies: Collection[Remedy] = (),
        groups: Any = None,
        seed: int = 0,
        keras_loop: bool = False,
    ) -> None:
        check_model(model)
        self._fault, self._to_look = check_data(model, x, y, validation_data), 0  # batches
        check_size("batch_size", batch_size)
        check_size("validation_batch_size", validation_batch_size)
        beside, knobs = _terms(remedies, groups, x, y, validation_data, validation_split)
        if validation_data is None:
            if not validation_split:
                raise InvalidInputError("`validation_data` or `validation_split` must be given")
            (x, y, sample_weight), validation_data = split(x, y, sample_weight, validation_split)
        self.model, self._rate = model, Rate(model)
        self.on_step: Callable[[int, Logs], None] | None = None
        self.steps: list[tuple[int, Logs]] = []
        self.keeps_steps = self.validates = False
        self.vectors: Logs = {}
        arguments: dict[str, Any] = {
            "batch_size": batch_size,
            "class_weight": class_weight,
            "shuffle": shuffle,
            "steps_per_epoch": steps_per_epoch,
            "beside": beside,
            "seed": seed,
        }
        self._data: Batches = training_data(model, x, y, sample_weight, keras_loop, **arguments)
        size = validation_batch_size or batch_size
        self._validation = Validation(model, validation_data, size, validation_steps or None)
        self._keras_loop, self._seeds = keras_loop, global_seeds()
        self._first_batch_size = self._data.place.batch_size
        self._fixed = fixed_batch(model, self._first_batch_size)
        if self._fixed:
            check_whole("x", (x, y), self._fixed, batch_size, steps_per_epoch)
            check_whole("validation_data", validation_data, self._fixed, size, validation_steps)
        if model.built:
            check_trained(model)
        self._data.build(model)
        check_trained(model)
        self._tracker = loss_tracker(model)
        self._knobs = knobs and knobs(model)
        model.make_train_function()
        model.make_test_function()
        self._logs: Logs = {}

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The learning rate in effect, remedies' weights, the batch size if it can be changed."""
        values = {"learning_rate": self._rate.value}
        values |= {name: float(weight.value) for name, weight in self._weights.items()}
        size = self._data.place.batch_size
        hidden = size is None or (self._fixed and not self._keras_loop)
        return values if hidden else {**values, "batch_size": float(size or 0)}

    @property
    def steps_per_epoch(self) -> int:
        """The steps of a whole epoch at the batch size in effect."""
        return self._data.steps_per_epoch

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate moves by itself."""
        return self._rate.scheduled

    @property
    def finite(self) -> bool:
        """Whether all weights are; a layer such as ReLU may hide it from the loss."""
        finite = all_finite(self.model)
        if not finite:
            self._look_out()
        return finite

    def data_fault(self) -> str | None:
        """What is not finite in arrays, or was seen in batches once a loss was not finite."""
        return self._fault

    def validation_fault(self) -> str:
        """Where in the validation data the loss begins to be not finite, as a sentence."""
        with self.only_looking():
            return self._validation.fault()

    @property
    def between_epochs(self) -> bool:
        """Whether the next step begins an epoch."""
        return self._data.place.steps == 0

    def train(self, steps: int) -> Metrics:
        """Take optimizer steps; see `Trainer.train`."""
        taken, weight, total = 0, 0.0, 0.0
        with train_mode(self.model):
            while taken < steps and math.isfinite(total):
                more, count, loss = self._within_epoch(min(steps - taken, _LOOK_EVERY))
                taken, weight, total = taken + more, weight + count, total + count * loss
        if not math.isfinite(total):
            self._look_out()
        return {"steps": taken, "loss": total / weight}

    def epoch_logs(self) -> Logs:
        """The training metrics since the beginning of the epoch, as `model.fit` logs them."""
        return dict(pythonify_logs(self.model._get_metrics_result_or_logs(self._logs)))

    def evaluate(self, callbacks: keras.callbacks.Callback | None = None) -> Metrics:
        """Metrics on the validation data.

        Args:
            callbacks: Told of the batches, as by `model.evaluate`.
        """
        validates, self.validates = self.validates and self._keras_loop, False
        if validates:
            kept = values(self.model.metrics_variables)
            logs = self._validation.by_keras()
            assign(kept)
        else:
            with self.only_looking():
                alike = self._keras_loop and callbacks is None
                logs = self._validation.by_keras() if alike else self._validation.run(callbacks)
        named = {f"val_{name}": value for name, value in logs.items()}
        self.vectors = {k: v for k, v in named.items() if not isinstance(v, int | float)}
        return {k: v for k, v in named.items() if k not in self.vectors}

    def refresh(self) -> bool:
        """Make the statistics of BatchNormalization anew, from arrays; see `GuardedRun`."""
        layers = normalising(self.model)
        batches = self._ahead(_REFRESHING) if layers else []
        if not batches:
            return False
        moved = [variable for layer in layers for variable in layer.non_trainable_variables]
        with self.only_looking():
            refresh(self.model, layers, (x for x, _, _ in batches))
            fresh = values(moved)
        assign(fresh)
        return True

    def knowledge(self) -> float:
        """See `statistics.knowledge`; NaN for data that are no arrays, and with an own step."""
        size = self._data.place.batch_size or _KNOWLEDGE_SAMPLES
        batches = self._ahead(-(-_KNOWLEDGE_SAMPLES // size))
        with self.only_looking():
            return knowledge(self.model, batches)

    def _ahead(self, count: int) -> list[tuple[Any, Any, Any]]:
        """The next batches of arrays, at most an epoch's; none if a user's step calls the model."""
        if own_step(self.model) or not isinstance(self._data, ArrayBatches):
            return []
        place = self._data.place
        batches = [self._data.take(1)[0][0] for _ in range(min(count, self.steps_per_epoch))]
        self._data.place = place
        plain = [batch[0] for batch in batches] if self._data.pairs else batches
        return [keras.utils.unpack_x_y_sample_weight(batch) for batch in plain]

    @contextmanager
    def only_looking(self) -> Iterator[None]:
        """Evaluation; on leaving, all but the weights that are trained is as it was.

        That is statistics and seeds of layers, metrics, the optimizer, random streams, and the
        modes of torch's layers.
        """
        trained = {id(variable) for variable in self.model.trainable_variables}
        kept = values(v for v in self._variables() if id(v) not in trained)
        stood, stand = streams(), modes(self.model)
        try:
            if stand:
                self.model.eval()
            yield
        finally:
            for layer, mode in stand:
                layer.training = mode
            assign(kept)
            restore_streams(stood)

    def set(self, **hyperparameters: float) -> None:
        """Change the learning rate, or the batch size of arrays.

        Raises:
            InvalidInputError: If a name is unknown or a value is not allowed; nothing is changed.
        """
        for name, value in hyperparameters.items():
            self._check_value(name, value)
        if "learning_rate" in hyperparameters:
            self._rate.set(hyperparameters["learning_rate"])
        for name in self._weights.keys() & hyperparameters:
            self._weights[name].assign(hyperparameters[name])
        if "batch_size" in hyperparameters:
            size = int(hyperparameters["batch_size"])
            self._data.place = replace(self._data.place, batch_size=size)

    def snapshot(self, into: KerasSnapshot | None = None) -> KerasSnapshot:
        """The whole state. Values are immutable, so no memory is written over."""
        self._rate.note()
        return KerasSnapshot(
            values(self._variables()),
            self._data.place,
            tuple(self.steps),
            streams(),
            (dict(self._logs), dict(self.vectors)),
        )

    def restore(self, snapshot: KerasSnapshot) -> None:
        """Go back to a snapshot."""
        assign(snapshot.values)
        self._rate.note()
        restore_streams(snapshot.streams)
        self._data.place = snapshot.place
        self.steps = list(snapshot.steps)
        self._logs, self.vectors = (dict(logs) for logs in snapshot.logs)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same where a snapshot is taken up; see `Trainer`."""
        return {
            **saving.identity(self.model, self._variables()),
            "data": self._data.identity,
            "batch_size": self._first_batch_size,
        }

    def saved(self, snapshot: KerasSnapshot) -> dict[str, Any]:
        """A snapshot as plain values; see `Trainer`."""
        return {
            "values": [saving.plain(value) for _, value in snapshot.values],
            "place": asdict(snapshot.place),
            "seed": self._data.seed,
            "taken": list(self._data.taken),
            "steps": saving.plain(snapshot.steps),
            "streams": saving.plain_of_streams(snapshot.streams),
            "logs": saving.plain(snapshot.logs),
        }

    def loaded(self, values: Mapping[str, Any]) -> KerasSnapshot:
        """A snapshot from plain values, which is to be restored next; see `Trainer`."""
        self._data.seed = values["seed"]
        self._trace(values["taken"])
        return KerasSnapshot(
            tuple(zip(self._variables(), map(saving.revived, values["values"]), strict=True)),
            Place(**values["place"]),
            tuple(values["steps"]),
            saving.streams_of_plain(values["streams"]),
            tuple(values["logs"]),
        )

    def _trace(self, taken: Iterable[tuple[int, ...]]) -> None:
        """Execute the training step on batches of these sizes in this order.

        TensorFlow traces the step by the sizes that it meets, and rounds differently where another
        came first.
        """
        for sizes in taken:
            if sizes not in self._data.taken:
                self._data.taken.append(sizes)
                self.model.train_function(self._data.like(sizes))

    def close(self) -> None:
        """Give the optimizer its own schedule back, and end the workers of the data."""
        self._rate.close()
        self._data.close()
        if self._knobs:
            self._knobs.close()

    @property
    def _weights(self) -> Mapping[str, keras.Variable]:
        return self._knobs.variables if self._knobs else {}

    def _variables(self) -> Iterable[keras.Variable]:
        variables = [*variables_of(self.model), *self._rate.variables]
        variables += [self._seeds.state, *self._weights.values()]
        return {id(variable): variable for variable in variables}.values()

    def _within_epoch(self, steps: int) -> tuple[int, float, float]:
        """Take steps, at most to the end of the epoch: their number, weight and mean loss."""
        if self.between_epochs:
            self.model.reset_metrics()
            self.steps = []
        total, count = tracked(self._tracker)
        taken = 0
        while taken < steps and not (taken and self.between_epochs):
            taken += self._execute(min(steps - taken, self.model.steps_per_execution))
        if "loss" not in self._logs:
            raise UnsupportedModelError(
                f"train_step must return 'loss', but it returned {sorted(self._logs)}"
            )
        now_total, now_count = tracked(self._tracker)
        if now_count == count:  # a train_step of the user's that tracks its loss elsewhere
            return taken, float(taken), float(self._logs["loss"])
        return taken, now_count - count, (now_total - total) / (now_count - count)

    def _execute(self, steps: int) -> int:
        """One execution of the training step, of several steps with `steps_per_execution`."""
        first = self._data.place.steps
        data, count = self._data.take(steps)
        if self._to_look > 0 and self._fault is None and isinstance(data, list):
            self._to_look -= count
            self._fault = fault_in_batches([b[0] for b in data] if self._data.pairs else data)
        with lasting(), weigh_outputs(self.model, self._tracker, wrong=not self._keras_loop):
            self._logs = self.model.train_function(data)
        if self._knobs:
            self._knobs.check()
        last = first + count - 1
        if self.keeps_steps:
            self.steps.append((last, self._logs))
        if self.on_step is not None:
            self.on_step(last, self._logs)
        if self.between_epochs:
            self._data.end_epoch()
        return count

    def _look_out(self) -> None:
        """A loss or a weight is not finite: look at the batches of a whole pass, which costs."""
        self._to_look = 2 * self.steps_per_epoch

    def _check_value(self, name: str, value: float) -> None:
        if name == "learning_rate":
            self._rate.check(value)
        elif name in self._weights:
            return
        elif name == "batch_size" and self._first_batch_size and not self._fixed:
            check_batch_size(self.model, value, self._first_batch_size)
        else:
            raise InvalidInputError(
                f"one of {sorted(self.hyperparameters)} can be set, but got {name!r}"
                + ("; the batch size is that of the data" if name == "batch_size" else "")
            )


def _terms(
    remedies: Collection[Remedy], groups: Any, *data: Any
) -> tuple[Any, Callable[[keras.Model], Knobs] | None]:
    """See `knobs.prepared`; None and None for the runs, most of them, without remedies."""
    if not remedies and groups is None:
        return None, None
    from rlhf_tune_integrations.keras.knobs import prepared

    return prepared(remedies, groups, *data)
