"""Adapter of skorch: `fit` trains a net while a policy moves its learning rate.

The rate is moved, and states are verified or rolled back, after optimizer steps of skorch's own
loop. The net's history sees every step taken, discarded ones too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Unpack, cast, final

from rlhf_tune.errors import InvalidInputError, expect, require
from rlhf_tune.run.driver import budget
from rlhf_tune.run.driving import Driving, Keywords
from rlhf_tune.run.history import History
from rlhf_tune.run.loops import Handover

# Before the adapter of PyTorch, so that what is missing is named by the extra that brings both.
expect("torch", extra="skorch")
_callbacks: Any = require("skorch.callbacks", extra="skorch")
_utils: Any = require("skorch.utils", extra="skorch")
_unpack: Any = require("skorch.dataset", extra="skorch").unpack_data
_skorch: Any = require("skorch", extra="skorch")

import torch  # noqa: E402

from rlhf_tune_integrations.pytorch.loops import LoopTrainer  # noqa: E402
from rlhf_tune_integrations.pytorch.optimizers import usual_rate  # noqa: E402

# They set the rate, or the weights at the end.
_RIVALS = ("LRScheduler", "WarmRestartLR", "LoadInitState", "TrainEndCheckpoint")


def fit(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    validation_data: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    trained: bool | None = None,
    **driving: Unpack[Keywords],
) -> History:
    """Train a skorch net while a policy moves the learning rate, verified or rolled back.

    Args:
        net: A `NeuralNet` with one module and one optimizer.
        X: As for `net.fit`.
        y: Likewise.
        validation_data: A pair (X, y), or a dataset, by which states are judged: "val_loss", and
            for a classifier "val_accuracy". Default: what the net's `train_split` splits off, once
            for the whole run; with both there would be two, so it must be None then.
        epochs: The budget in passes over the data; default `net.max_epochs`.
        steps: The budget in optimizer steps, in place of `epochs`.
        trained: Whether the module has learned its task before; default where the net goes on
            (`warm_start`). The rate is then looked for from its own on, and gently.
        driving: The fields of `rlhf_tune.run.driving.Driving`, such as `constraints`.

    Raises:
        InvalidInputError: If something is given that cannot be driven.
        CannotCertify: If no state satisfied the constraints; `best` is the module.
    """
    chosen = Driving(**driving)
    _check(net, validation_data)
    goes_on = bool(net.warm_start and net.initialized_)
    if not goes_on:
        net.initialize()
    _check_parts(net)
    split = net.train_split
    parts = net.get_split_datasets(X, y)  # once: a random split would differ from call to call
    judging = validation_data if split is None else parts[1]
    per_epoch = len(net.get_iterator(parts[0], training=True))
    total = budget(net.max_epochs if epochs is None and steps is None else epochs, steps, per_epoch)
    handover, optimizer = Handover(), net.optimizer_
    run = LoopTrainer(
        handover,
        net.module_,
        optimizer,
        lambda: _validated(net, judging),
        per_epoch,
        trained=goes_on if trained is None else trained,
        forward=lambda batch: net.infer(_unpack(batch)[0]),
    )
    hooks = _Hooks(
        handover,
        run.batches,
        lambda: chosen.drive(run, epochs=total, usual_rate=usual_rate(optimizer)),
    )
    net.callbacks_.append(("rlhf_tune", hooks))
    counting = optimizer.register_step_post_hook(hooks.count)
    try:
        net.train_split = split and (lambda *_, **__: parts)
        with handover.watching():
            net.partial_fit(X, y, epochs=math.ceil(total))
    finally:
        net.train_split = split
        counting.remove()
        net.callbacks_.remove(("rlhf_tune", hooks))
    return cast(History, handover.result)


@final
class _Hooks(_callbacks.Callback):  # type: ignore[misc]
    """Hands over where skorch tells of its loop."""

    def __init__(self, handover: Handover, batches: Any, drive: Any) -> None:
        self._handover, self._batches, self._drive = handover, batches, drive
        self._losses: list[float] = []
        self._stepped = self._on = False

    def on_train_begin(self, net: Any, **_: Any) -> None:
        self._on = self._handover.begin(self._drive)

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        _go(self._on)  # before, it would not be caught

    def on_batch_end(self, net: Any, *, batch: Any, training: bool, loss: Any, **_: Any) -> None:
        if training:
            self._batches.append(batch)
            self._losses.append(float(loss.detach()))
        if self._stepped:  # not where a net of the user's accumulates
            mean = sum(self._losses) / len(self._losses)
            self._losses, self._stepped = [], False
            self._on = self._handover.stepped(mean)
            _go(self._on)

    def on_train_end(self, net: Any, **_: Any) -> None:
        self._handover.end()  # early, by a callback of the user's or Ctrl-C, or not

    def count(self, *_: Any) -> None:
        """A step of the optimizer was taken."""
        self._stepped = True


def _go(on: bool) -> None:
    """Skorch's own way to end its loop, which it catches."""
    if not on:
        raise KeyboardInterrupt


def _check(net: Any, validation_data: Any) -> None:
    if not isinstance(net, _skorch.NeuralNet):
        kind = net.__name__ if isinstance(net, type) else type(net).__name__
        raise InvalidInputError(
            f"a skorch net must be given, but got {kind}; hand over an instance, and of a pipeline "
            f"its last step with data that went through the others"
        )
    if (net.train_split is None) == (validation_data is None):
        has = "neither" if validation_data is None else "both"
        raise InvalidInputError(
            f"states must be judged by the part that the net's train_split splits off, or by "
            f"`validation_data` with train_split=None, but there is {has}"
        )
    given = [c[1] if isinstance(c, tuple) else c for c in net.callbacks or ()]
    names = [c.__name__ if isinstance(c, type) else type(c).__name__ for c in given]
    loads = [c for c in given if getattr(c, "load_best", False)]
    rivals = [*(name for name in names if name in _RIVALS), *(f"{c}" for c in loads)]
    if rivals:
        raise InvalidInputError(
            f"rate and weights must have one owner, but the net has {rivals}; leave that out: the "
            f"policy moves the rate, and the best state is handed back"
        )


def _check_parts(net: Any) -> None:
    if len(net._modules) != 1 or len(net._optimizers) != 1:
        raise InvalidInputError(
            f"the net must have one module and one optimizer, but has {net._modules} and "
            f"{net._optimizers}"
        )


def _validated(net: Any, data: Any) -> Mapping[str, float]:
    pair = data if isinstance(data, tuple | list) else (data, None)
    dataset = net.get_dataset(*pair)
    losses, right, samples = 0.0, 0.0, 0
    for batch in net.get_iterator(dataset, training=False):
        step = net.validation_step(batch)
        target = _utils.to_tensor(batch[1], device=net.device)
        losses += float(step["loss"]) * len(target)
        samples += len(target)
        if _classifies(net):
            right += float((step["y_pred"].argmax(1) == target).sum())
    metrics = {"val_loss": losses / samples}
    return {**metrics, "val_accuracy": right / samples} if _classifies(net) else metrics


def _classifies(net: Any) -> bool:
    losses = torch.nn.NLLLoss | torch.nn.CrossEntropyLoss
    return isinstance(net, _skorch.NeuralNetClassifier) and isinstance(net.criterion_, losses)
