"""`rlhf_tune.envs.Trainer` for PyTorch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.schedules import ADAPTIVE, SGD
from rlhf_tune.run.trainer import Metrics
from rlhf_tune_integrations.pytorch.batches import (
    Data,
    Feed,
    FeedSnapshot,
    evaluation_loader,
    fault_of,
)
from rlhf_tune_integrations.pytorch.modules import dtype_of
from rlhf_tune_integrations.pytorch.state import State, Stateful, StateSnapshot

if TYPE_CHECKING:
    from rlhf_tune.safety.remedy import Remedy
    from rlhf_tune_integrations.pytorch.knobs import Knobs

Loss = Callable[[Any, Any], Tensor]
Step = Callable[..., Any]
Metric = str | Callable[[Tensor, Tensor], Any]
Snapshot = tuple[StateSnapshot, FeedSnapshot]

_PER_STEP = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)
_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
_EVALUATION_BATCH = 256
_LOOK_EVERY = 20  # steps on an accelerator, where reading the loss waits for it
_SQUARE = "squared loss"  # no name of a metric
_TAKEN = ("loss", "spread", "steps", _SQUARE)
_PLAIN = ("SGD", "ASGD", "LBFGS", "Rprop")


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
        metrics: Sequence[Metric] = (),
        scheduler: Any = None,
        train_step: Step | None = None,
        state: Sequence[Stateful] = (),
        remedies: Sequence[Remedy] = (),
        seed: int | None = None,
    ) -> None:
        """Prepare training; nothing is changed yet.

        Args:
            model: Trained in place, on the device where it is.
            optimizer: Over its parameters; parameter groups keep the ratios of their rates.
            loss_fn: The mean loss of outputs and targets.
            train_data: A pair (x, y) of arrays or tensors, a dataset of such pairs, or a
                DataLoader over one, whose workers and sampler are used.
            validation_data: The same, or a function that returns metrics, "val_loss" among them.
            batch_size: To begin with; default: the DataLoader's, else 32.
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
            seed: Of the order of the data; None draws it from torch's global stream.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        _check_scheduler(scheduler, optimizer)
        self.model, self._optimizer, self._loss_fn = model, optimizer, loss_fn
        _check_optimizer(model, optimizer)
        normalised = any(isinstance(module, _BATCH_NORM) for module in model.modules())
        dtype = dtype_of(model.parameters())
        self._feed = Feed(train_data, batch_size, seed=seed, dtype=dtype, singles=not normalised)
        self._validation = validation_data
        if not callable(validation_data):
            self._validation = evaluation_loader(validation_data, _EVALUATION_BATCH, dtype)
        self._metrics = _named(metrics)
        self._scheduler, self._train_step = scheduler, train_step
        self._per_step, self._closes = _is_per_step(scheduler), _needs_closure(optimizer)
        self._knobs = self._made(remedies)
        self._state = State(
            model,
            optimizer,
            (*state, *(each for each in (scheduler, self._knobs) if each is not None)),
            gradients=train_step is not None,
            owner=None if scheduler is None else type(scheduler).__name__,
        )
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The learning rate of the first parameter group, the batch size, remedies' weights."""
        return {
            "learning_rate": self._state.learning_rate,
            "batch_size": self._feed.batch_size,
            **(self._knobs.weights if self._knobs else {}),
        }

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch at the batch size in effect."""
        return self._feed.steps_per_epoch

    def set(self, **hyperparameters: float) -> None:
        """Change hyperparameters; see `Trainer.set`."""
        unknown = hyperparameters.keys() - self.hyperparameters.keys()
        if unknown:
            known = " and ".join(self.hyperparameters)
            raise InvalidInputError(f"{known} can be set, but got {sorted(unknown)}")
        size = self._feed.check(hyperparameters.get("batch_size", self._feed.batch_size))
        if "learning_rate" in hyperparameters:
            self._state.set_rate(hyperparameters["learning_rate"])
        if size != self._feed.batch_size:
            self._feed.batch_size = size
        if self._knobs:
            self._knobs.set(hyperparameters)

    def train(self, steps: int) -> Metrics:
        """Take steps; see `Trainer.train`."""
        if not self.model.training:  # else leave the modes: parts may be frozen on purpose
            self.model.train()
        totals, seen, taken = _Totals(), 0, 0
        look = 1 if self._device.type == "cpu" else _LOOK_EVERY
        while taken < steps:
            batch, size, ends = self._feed.next()
            scores = self._step(_moved(batch, self._device))
            loss = _number(scores["loss"])
            totals.add({**scores, _SQUARE: loss * loss}, size)
            seen, taken = seen + size, taken + 1
            self._after_step(ends)
            if taken % look == 0 and not totals.finite:
                break
        means = totals.means()
        variance = means.pop(_SQUARE) - means["loss"] * means["loss"]
        return {"steps": taken, "spread": math.sqrt(max(0.0, variance)), **means}

    def evaluate(self) -> Metrics:
        """Metrics on the validation data; see `Trainer.evaluate`."""
        with self._state.only_looking(gradients=False):
            if callable(self._validation):
                return as_metrics(self._validation())
            totals = _Totals()
            for batch in self._validation:
                x, y = _pair(_moved(batch, self._device))
                outputs = self.model(x)
                totals.add(self._scores(outputs, y, self._loss_fn(outputs, y)), _samples(y))
        return {f"val_{name}": value for name, value in totals.means().items()}

    def only_looking(self) -> AbstractContextManager[None]:
        """Evaluation mode; on leaving, modes, statistics and random streams are as before."""
        return self._state.only_looking(gradients=True)

    @property
    def finite(self) -> bool:
        """Whether all weights are."""
        weights = (p for p in self.model.parameters() if p.is_floating_point())
        return all(bool(torch.isfinite(weight).all()) for weight in weights)

    def data_fault(self) -> str | None:
        """What is not finite in arrays that were handed in, as a sentence."""
        return fault_of(self._feed.dataset, "train_data") or fault_of(
            getattr(self._validation, "dataset", None), "validation_data"
        )

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """Everything that training changes; see `Trainer.snapshot`."""
        return self._state.snapshot(None if into is None else into[0]), self._feed.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; see `Trainer.restore`."""
        self._feed.restore(snapshot[1])
        self._state.restore(snapshot[0])

    def _made(self, remedies: Sequence[Remedy]) -> Knobs | None:
        if not remedies:
            return None
        from rlhf_tune_integrations.pytorch.knobs import Knobs, check_step  # asked for by few

        check_step(self._train_step, closes=self._closes)
        return Knobs(remedies, self.model, self._loss_fn)

    def _step(self, batch: Any) -> Mapping[str, Any]:
        if self._train_step is not None:
            step, knobs = self._train_step, self._knobs
            return {"loss": knobs.stepped(step, batch) if knobs else step(batch)}
        x, y = _pair(batch)
        passes: list[tuple[Any, Tensor]] = []

        def closure() -> Tensor:
            self._optimizer.zero_grad()
            outputs = self.model(x)
            loss = self._loss_fn(outputs, y)
            if loss.ndim:
                raise InvalidInputError(
                    f"loss_fn must return one number, the mean over the batch, but returned the "
                    f"shape {tuple(loss.shape)}; take its mean"
                )
            if self._knobs:
                loss = loss + self._knobs.term(x, y, outputs)
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


def usual_rate(optimizer: torch.optim.Optimizer) -> float:
    """The default learning rate of an optimizer; torch's own for SGD is far below what is used."""
    if type(optimizer).__name__ in _PLAIN:
        return SGD
    default = inspect.signature(type(optimizer)).parameters.get("lr")
    value = None if default is None else default.default
    return float(value) if isinstance(value, float | int) else ADAPTIVE


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


def _samples(targets: Any) -> int:
    """How many samples a batch of targets has, however they are nested."""
    while not isinstance(targets, Tensor):
        if isinstance(targets, Mapping):
            targets = list(targets.values())
        if not isinstance(targets, list | tuple) or not targets:
            raise InvalidInputError(
                f"targets must be tensors [B, ...], or mappings or tuples of them, but got "
                f"{type(targets).__name__}; validate by a function as validation_data"
            )
        targets = targets[0]
    return len(targets) if targets.ndim else 1


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    raise InvalidInputError(
        f"a batch must be a pair (x, y), but got {type(batch).__name__}; say how to train on it by "
        f"train_step, and how to validate by a function as validation_data"
    )


def _named(metrics: Sequence[Metric]) -> dict[str, Callable[[Tensor, Tensor], Any]]:
    """Metrics by name."""
    found: dict[str, Callable[[Tensor, Tensor], Any]] = {}
    for metric in metrics:
        if not callable(metric) and metric != "accuracy":
            raise InvalidInputError(
                f"a metric must be 'accuracy' or a function of outputs and targets, "
                f"but got {metric!r}"
            )
        name = getattr(metric, "__name__", type(metric).__name__) if callable(metric) else metric
        if name in found or name in _TAKEN:
            raise InvalidInputError(
                f"metrics must have names of their own, but got {name!r} "
                f"{'twice' if name in found else 'beside the loss or the batch size'}; rename it"
            )
        found[name] = metric if callable(metric) else _accuracy
    return found


def _accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise InvalidInputError(
            f"'accuracy' needs scores [B, C] of at least two classes, but got "
            f"{tuple(outputs.shape)}; give a function"
        )
    return (outputs.argmax(dim=1) == y).float().mean()


def _check_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """An optimizer that holds nothing of the model would train nothing."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if stepped.isdisjoint({id(p) for p in model.parameters()}):
        raise InvalidInputError(
            "the optimizer must hold parameters of the model, but holds none of them; make it of "
            "model.parameters(), after the model has its final form"
        )


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step has to evaluate the loss by itself, as LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _is_per_step(scheduler: Any) -> bool:
    """Whether a scheduler, or one inside it, counts batches."""
    inner = getattr(scheduler, "_schedulers", ())
    return isinstance(scheduler, _PER_STEP) or any(_is_per_step(each) for each in inner)


def _check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InvalidInputError(
            "a scheduler must be stepped without a metric, but got ReduceLROnPlateau; leave it "
            "out: policy='default' lowers the rate when the validation metric asks for it"
        )
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InvalidInputError("the scheduler must be that of the optimizer, but it has another")
