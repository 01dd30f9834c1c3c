"""Validation of a Keras model in training: on the same samples each time, and weighed by them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.utils.python_utils import pythonify_logs

from rlhf_tune_integrations.keras.batches import len_of, repeatable, validation_source
from rlhf_tune_integrations.keras.intake import fault_of_batch
from rlhf_tune_integrations.keras.loop import passes

Logs = dict[str, Any]


class Validation:
    """What `model.fit` takes as validation data; a generator is read once.

    Raises:
        InvalidInputError: If the data have no end, or nothing in them.
        ValueError: Keras' own, for data it does not take.
    """

    def __init__(
        self, model: keras.Model, data: Any, batch_size: int | None, steps: int | None
    ) -> None:
        self._model, self._batch_size, self._steps = model, batch_size, steps
        self._data = repeatable(data, steps)
        self._source = validation_source(self._data, batch_size, steps)
        self._passes: Any = None

    def run(self, callbacks: keras.callbacks.Callback | None = None) -> Logs:
        """Metrics over samples.

        Args:
            callbacks: Told of the batches, as by `model.evaluate`.
        """
        model, heard = self._model, callbacks or keras.callbacks.Callback()
        tracker = loss_tracker(model)
        model.reset_metrics()
        heard.on_test_begin()
        logs: Logs = {}
        for step, batch in enumerate(self._source.batches(self._steps)):
            heard.on_test_batch_begin(step)
            with weigh_outputs(model, tracker):
                logs = model.test_function([batch])
            heard.on_test_batch_end(step, logs)
        results: Logs = pythonify_logs(model._get_metrics_result_or_logs(logs))
        heard.on_test_end(results)
        return results

    def fault(self) -> str:
        """Where the loss begins to be not finite, as a sentence."""
        seen = 0
        for number, batch in enumerate(self._source.batches(self._steps)):
            if fault := fault_of_batch(batch, seen):
                return f"validation_data holds values that are not finite, first in {fault}"
            self._model.reset_metrics()
            logs = pythonify_logs(
                self._model._get_metrics_result_or_logs(self._model.test_function([batch]))
            )
            if not math.isfinite(logs.get("loss", 0.0)):
                return (
                    f"it begins in batch {number} of validation_data, after {seen} samples, whose "
                    f"values are finite: look for logarithms and divisions in the loss, and for "
                    f"NaN in the weights"
                )
            seen += len_of(batch)
        return "no single batch of validation_data has it: look at the metric"

    def by_keras(self) -> Logs:
        """Metrics as `model.fit` gets them, with all that this draws from random streams."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self._data)
        if self._passes is None:
            self._passes = passes(
                self._model,
                x,
                y,
                sample_weight,
                batch_size=self._batch_size,
                steps_per_epoch=self._steps,
                shuffle=False,
            )
        self._model._eval_epoch_iterator = self._passes
        try:
            logs: Logs = self._model.evaluate(
                x,
                y,
                sample_weight=sample_weight,
                batch_size=self._batch_size,
                steps=self._steps,
                verbose=0,
                return_dict=True,
                _use_cached_eval_dataset=True,
            )
        finally:
            self._model._eval_epoch_iterator = None
        return logs


def loss_tracker(model: keras.Model) -> keras.metrics.Mean | None:
    """The mean of the loss over samples; None where a step of the user's tracks it elsewhere."""
    means = (m for m in model.metrics if isinstance(m, keras.metrics.Mean))
    return next((m for m in means if m.name == "loss"), None)


def tracked(tracker: Any) -> tuple[float, float]:
    """Sum and count of the losses that a tracker, if any, has seen since it was reset."""
    return (float(tracker.total), float(tracker.count)) if tracker is not None else (0.0, 0.0)


@contextmanager
def weigh_outputs(
    model: keras.Model, tracker: keras.metrics.Mean | None, *, wrong: bool = True
) -> Iterator[None]:
    """Weigh the losses of single outputs by the samples of a batch, as Keras weighs their sum.

    On TensorFlow it counts a batch as one wherever its size is not known when it is traced.

    Args:
        model: That makes a step on a batch within the context.
        tracker: Its `loss_tracker`.
        wrong: Whether to put it right.
    """
    losses = getattr(model, "_compile_loss", None)
    means = losses.metrics if losses is not None else []
    if not (wrong and means and tracker) or keras.backend.backend() == "torch":
        yield
        return
    before = [(mean, mean.total + 0, mean.count + 0) for mean in means]
    samples = tracker.count + 0
    yield
    samples = tracker.count - samples
    for mean, total, count in before:
        value = (mean.total - total) / (mean.count - count)
        mean.total.assign(total + value * samples)
        mean.count.assign(count + samples)
