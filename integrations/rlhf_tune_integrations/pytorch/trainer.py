"""`rlhf_tune.envs.Trainer` for PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.faults import fault_in
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.trainer import Metrics
from rlhf_tune.streams import restore_streams, streams
from rlhf_tune_integrations.pytorch.batches import (
    Data,
    Feed,
    FeedSnapshot,
    evaluation_loader,
    named_parts,
)
from rlhf_tune_integrations.pytorch.modules import all_finite, check_optimizer, dtype_of
from rlhf_tune_integrations.pytorch.optimizers import (
    check_scheduler,
    is_per_step,
    needs_closure,
)
from rlhf_tune_integrations.pytorch.scoring import (
    SQUARE,
    Loss,
    Metric,
    loss_of,
    named,
    parts,
    samples_in,
)
from rlhf_tune_integrations.pytorch.state import State, Stateful, StateSnapshot
from rlhf_tune_integrations.pytorch.statistics import BATCH_NORM, normalising, refresh
from rlhf_tune_integrations.pytorch.streams import StreamFeed, is_stream

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy
    from rlhf_tune_integrations.pytorch.knobs import Knobs

Step = Callable[..., Any]
Snapshot = tuple[StateSnapshot, FeedSnapshot]

_EVALUATION_BATCH = 256
_REFRESHING = 20  # batches
_KNOWLEDGE_SAMPLES = 256
_LOOK_EVERY = 20  # steps on an accelerator, where reading the loss waits for it


@final
class TorchTrainer:
    """Trains a torch module in stretches; the order of the data is its own."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Loss,
        train_data: Data,
        validation_data: Data | Callable[[], Mapping[str, float]],
        *,
        batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        metrics: Sequence[Metric] = (),
        scheduler: Any = None,
        train_step: Step | None = None,
        state: Sequence[Stateful] = (),
        remedies: Collection[Remedy] = (),
        groups: Any = None,
        seed: int | None = None,
    ) -> None:
        """Prepare training; nothing is changed yet.

        Args:
            model: Trained in place, on the device where it is.
            optimizer: Over its parameters; parameter groups keep the ratios of their rates.
            loss_fn: The mean loss of outputs and targets, whatever the model returns; with weights
                it must have a `reduction`.
            train_data: A pair (x, y) or triple (x, y, weights) of arrays or tensors, a dataset of
                such, or a DataLoader over one, whose workers and sampler are used. Also a stream
                (`IterableDataset`), in its own order.
            validation_data: The same, or a function that returns metrics, "val_loss" among them.
            batch_size: To begin with; default: the DataLoader's, else 32.
            steps_per_epoch: The length of an epoch of a stream, and only of one.
            metrics: "accuracy", or functions of outputs [B, ...] and targets [B, ...] whose
                results are averaged over samples; reported as `name` and `val_name`.
            scheduler: Owns the learning rate; stepped after every epoch (OneCycleLR, CyclicLR, and
                what is made of them: every step).
            train_step: Makes one optimizer step on a batch and returns the loss, a tensor or a
                number, in place of the usual forward, backward and step. The place for mixed
                precision, clipping and gradient accumulation; it sees the batch as the data
                gives it, on the device of the model.
            state: Further objects that training changes, such as a GradScaler.
            remedies: Terms added to the loss, whose weights are hyperparameters that can be set;
                `train_step` is then handed a second argument, term(x, y, outputs).
            groups: The group of each sample of the dataset, for remedies that price gaps: an array
                [N], or several by name. A stream has them as a further element of its batches.
            seed: Of the order of the data; None draws it from torch's global stream.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        check_scheduler(scheduler, optimizer)
        self.model, self._optimizer, self._loss_fn = model, optimizer, loss_fn
        check_optimizer(model, optimizer)
        normalised = any(isinstance(module, BATCH_NORM) for module in model.modules())
        dtype = dtype_of(model.parameters())
        self._feed: Feed | StreamFeed
        if is_stream(train_data):
            self._feed = StreamFeed(train_data, batch_size, steps_per_epoch)
        elif steps_per_epoch is None:
            self._feed = Feed(
                train_data, batch_size, seed=seed, dtype=dtype, singles=not normalised
            )
        else:
            raise InvalidInputError(
                "`steps_per_epoch` is the length of a stream's epochs; data with a length have "
                "their own: leave it out, or give the budget by `steps`"
            )
        self._first_batch_size = self._feed.batch_size
        self._validation = validation_data
        if not callable(validation_data):
            self._validation = evaluation_loader(validation_data, _EVALUATION_BATCH, dtype)
        self._metrics = named(metrics, loss_fn)
        self._scheduler, self._train_step = scheduler, train_step
        self._per_step, self._closes = is_per_step(scheduler), needs_closure(optimizer)
        self._knobs = self._made(remedies, groups)
        self._state = State(
            model,
            optimizer,
            (*state, *(each for each in (scheduler, self._knobs) if each is not None)),
            gradients=train_step is not None,
            owner=None if scheduler is None else type(scheduler).__name__,
        )
        self._to_look = 0  # batches to be looked at
        self._fault: str | None = None
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The rate of the first parameter group, the batch size if it moves, remedies' weights."""
        size, weights = self._feed.batch_size, self._knobs.weights if self._knobs else {}
        moves = {} if size is None else {"batch_size": size}
        return {"learning_rate": self._state.learning_rate, **moves, **weights}

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch at the batch size in effect."""
        return self._feed.steps_per_epoch

    def set(self, **hyperparameters: float) -> None:
        """Change hyperparameters; see `Trainer.set`."""
        unknown = hyperparameters.keys() - {*self.hyperparameters, "batch_size"}
        if unknown:
            known = " and ".join(self.hyperparameters)
            raise InvalidInputError(f"{known} can be set, but got {sorted(unknown)}")
        size = self._feed.batch_size
        if "batch_size" in hyperparameters:
            size = self._feed.check(hyperparameters["batch_size"])
        if "learning_rate" in hyperparameters:
            self._state.set_rate(hyperparameters["learning_rate"])
        if size != self._feed.batch_size:
            self._feed.batch_size = size
        if self._knobs:
            self._knobs.set(hyperparameters)

    def train(self, steps: int) -> Metrics:
        """Take steps; see `Trainer.train`."""
        if not any(module.training for module in self.model.modules()):
            self.model.train()  # else leave the modes: parts may be frozen on purpose
        totals, seen, taken = _Totals(), 0, 0
        look = 1 if self._device.type == "cpu" else _LOOK_EVERY
        while taken < steps:
            batch, size, ends = self._feed.next()
            if self._to_look and self._fault is None:
                self._to_look, self._fault = self._to_look - 1, self._feed.fault(batch)
            if self._knobs:
                batch = self._knobs.take(batch, self._feed.rows)
            scores = self._step(_moved(batch, self._device))
            loss = _number(scores["loss"])
            totals.add({**scores, SQUARE: loss * loss}, size)
            seen, taken = seen + size, taken + 1
            self._after_step(ends)
            if taken % look == 0 and not totals.finite:
                self._look_out()
                break
        means = totals.means()
        variance = means.pop(SQUARE) - means["loss"] * means["loss"]
        return {"steps": taken, "spread": math.sqrt(max(0.0, variance)), **means}

    def evaluate(self) -> Metrics:
        """Metrics on the validation data; see `Trainer.evaluate`."""
        with self._state.only_looking(gradients=False):
            if callable(self._validation):
                return as_metrics(self._validation())
            totals = _Totals()
            for batch in self._validation:
                x, y, weights = parts(_moved(batch, self._device))
                outputs = self.model(x)
                loss = loss_of(self._loss_fn, outputs, y, weights)
                totals.add(self._scores(outputs, y, loss), samples_in(y))
        return {f"val_{name}": value for name, value in totals.means().items()}

    def refresh(self) -> bool:
        """Make the statistics of BatchNorm anew, from training data; see `GuardedRun`."""
        layers = normalising(self.model)
        batches = self._ahead(_REFRESHING) if layers else []
        refresh(self.model, layers, (parts(batch)[0] for batch in batches))
        return bool(batches)

    def knowledge(self) -> float:
        """The loss of some training samples, relative to that with the targets of others.

        Of a model that guesses it is about 1; NaN for a stream, and with a training step of the
        user's.
        """
        size = self._feed.batch_size or _KNOWLEDGE_SAMPLES
        own = others = 0.0
        with self._state.only_looking(gradients=False):
            for x, y, weights in map(parts, self._ahead(-(-_KNOWLEDGE_SAMPLES // size))):
                outputs = self.model(x)
                own += float(loss_of(self._loss_fn, outputs, y, weights))
                others += float(loss_of(self._loss_fn, outputs, _mapped(y, _rolled), weights))
        return own / others if 0 < others < math.inf else math.nan

    def _ahead(self, count: int) -> Sequence[Any]:
        """The next batches, at most those of an epoch; nothing moves on.

        None of a stream, nor where the user's training step decides what the model is called on.
        """
        if isinstance(self._feed, StreamFeed) or self._train_step is not None:
            return []
        place, stood = self._feed.snapshot(), streams()
        batches = [self._feed.next()[0] for _ in range(min(count, self.steps_per_epoch))]
        self._feed.restore(place)
        restore_streams(stood)
        return [_moved(batch, self._device) for batch in batches]

    def only_looking(self) -> AbstractContextManager[None]:
        """Evaluation mode; on leaving, modes, statistics and random streams are as before."""
        return self._state.only_looking(gradients=True)

    @property
    def finite(self) -> bool:
        """Whether all weights are; where they are not, later batches are looked at."""
        finite = all_finite(self.model)
        if not finite:
            self._look_out()
        return finite

    def data_fault(self) -> str | None:
        """What was seen in the training data that is not finite, once a loss was not."""
        return self._fault

    def validation_fault(self) -> str:
        """Where in the validation data the loss begins to be not finite, as a sentence."""
        if callable(self._validation):
            return "the function given as validation_data returned it"
        seen = 0
        with self._state.only_looking(gradients=False):
            for number, batch in enumerate(self._validation):
                x, y, weights = parts(_moved(batch, self._device))
                last = seen + samples_in(y)
                if fault := fault_in(named_parts(batch), range(seen, last)):
                    return f"validation_data holds NaN or infinities, first in {fault}"
                if not math.isfinite(float(loss_of(self._loss_fn, self.model(x), y, weights))):
                    return (
                        f"it begins in batch {number} of validation_data, rows {seen} to "
                        f"{last - 1}, which are finite themselves: look for targets that the loss "
                        f"ignores, for logarithms and divisions, and for NaN in the weights"
                    )
                seen = last
        return "no single batch of validation_data has it: look at the metric"

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """Everything that training changes; see `Trainer.snapshot`."""
        return self._state.snapshot(None if into is None else into[0]), self._feed.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; see `Trainer.restore`."""
        self._feed.restore(snapshot[1])
        self._state.restore(snapshot[0])

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same where a snapshot is taken up; see `Trainer`."""
        from rlhf_tune_integrations.pytorch.saving import identity  # most runs are not written

        return {
            **identity(self.model, self._optimizer, self._state.others),
            "samples": self._feed.samples,
            "batch_size": self._first_batch_size,
        }

    def saved(self, snapshot: Snapshot) -> dict[str, Any]:
        """A snapshot as plain values; see `Trainer`."""
        from rlhf_tune_integrations.pytorch.saving import saved

        return saved(snapshot)

    def loaded(self, values: Mapping[str, Any]) -> Snapshot:
        """A snapshot from plain values; see `Trainer`."""
        from rlhf_tune_integrations.pytorch.saving import loaded

        return loaded(values)

    def _look_out(self) -> None:
        """A loss or a weight is not finite: look at the batches of a whole pass, which costs."""
        self._to_look = 2 * self.steps_per_epoch

    def _made(self, remedies: Collection[Remedy], groups: Any) -> Knobs | None:
        if not remedies and groups is None:
            return None
        from rlhf_tune_integrations.pytorch.knobs import Knobs, check_step  # asked for by few

        check_step(self._train_step, closes=self._closes)
        return Knobs(remedies, self.model, self._loss_fn, groups, self._feed.data_samples)

    def _step(self, batch: Any) -> Mapping[str, Any]:
        if self._train_step is not None:
            step, knobs = self._train_step, self._knobs
            return {"loss": knobs.stepped(step, batch) if knobs else step(batch)}
        x, y, weights = parts(batch)
        passes: list[tuple[Any, Tensor]] = []

        def closure() -> Tensor:
            self._optimizer.zero_grad()
            outputs = self.model(x)
            loss = loss_of(self._loss_fn, outputs, y, weights)
            if self._knobs:
                loss = loss + self._knobs.term(x, y, outputs, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            passes.append((outputs, loss))
            return loss

        if self._closes:
            self._optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            self._optimizer.step()
        outputs, loss = passes[0]  # the weights before the step, as of every optimizer
        return self._scores(_mapped(outputs, Tensor.detach), y, loss)

    def _scores(self, outputs: Tensor, y: Tensor, loss: Tensor) -> dict[str, Any]:
        others = {name: metric(outputs, y) for name, metric in self._metrics.items()}
        return {"loss": loss, **others}

    def _after_step(self, ends: bool) -> None:
        if self._scheduler is None:
            return
        if ends or self._per_step:
            self._scheduler.step()


class _Totals:
    """Sums over samples; tensors are read as late as possible, as that waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._samples = 0

    def add(self, values: Mapping[str, Any], samples: int) -> None:
        for name, value in values.items():
            value = _number(value)
            self._sums[name] = self._sums.get(name, 0.0) + value * samples
        self._samples += samples

    @property
    def finite(self) -> bool:
        return math.isfinite(float(self._sums["loss"]))

    def means(self) -> dict[str, float]:
        if not self._samples:
            raise InvalidInputError(
                "data must give at least one batch each time, but gave none; "
                "a generator inside ends after one pass"
            )
        return {name: float(total) / self._samples for name, total in self._sums.items()}


def _number(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return float(value)
    return value.item() if value.device.type == "cpu" else value.detach()


def _moved(batch: Any, device: torch.device) -> Any:
    return _mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested mappings, lists and tuples with their tensors changed; the rest as it is."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        return type(tree)(_mapped(value, change) for value in tree)
    return tree


def _rolled(targets: Tensor) -> Tensor:
    """The targets of the samples before."""
    return targets.roll(1, 0) if targets.ndim else targets
