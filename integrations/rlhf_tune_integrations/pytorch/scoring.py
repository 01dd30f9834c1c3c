"""What a batch is made of, its loss and its metrics, where no `train_step` says so."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlhf_tune.errors import InvalidInputError

Loss = Callable[[Any, Any], Tensor]
Metric = str | Callable[[Any, Any], Any]

SQUARE = "squared loss"  # no name of a metric
_TAKEN = ("loss", "spread", "steps", SQUARE)
_F = torch.nn.functional
_OF_LOGITS = (nn.BCEWithLogitsLoss, nn.SoftMarginLoss, _F.binary_cross_entropy_with_logits,
              _F.soft_margin_loss)  # fmt: skip
_OF_PROBABILITIES = (nn.BCELoss, _F.binary_cross_entropy)


def parts(batch: Any) -> tuple[Any, Any, Tensor | None]:
    """Inputs, targets and the weights of the samples, where there are any."""
    if isinstance(batch, list | tuple) and len(batch) in (2, 3):
        return batch[0], batch[1], batch[2] if len(batch) == 3 else None
    raise InvalidInputError(
        f"a batch must be (x, y) or (x, y, weights), but got {type(batch).__name__}; say how to "
        f"train on it by train_step, and how to validate by a function as validation_data"
    )


def loss_of(loss_fn: Loss, outputs: Any, y: Any, weights: Tensor | None) -> Tensor:
    """The mean loss of a batch; with weights [B] the mean of each sample's loss times its weight.

    That mean is over samples and not over the sum of the weights, as in Keras, so that a sample
    counts alike in every batch.

    Raises:
        InvalidInputError: If it is no single number, or cannot be weighed.
    """
    if weights is None:
        loss = loss_fn(outputs, y)
    else:
        each = _unreduced(loss_fn)(outputs, y)
        if not each.ndim or len(each) != len(weights):
            raise InvalidInputError(
                f"a loss that is weighed must give one number or more for each of the "
                f"{len(weights)} samples, but gave the shape {tuple(each.shape)}"
            )
        loss = (each.flatten(1).mean(1) if each.ndim > 1 else each).mul(weights.flatten()).mean()
    if loss.ndim:
        raise InvalidInputError(
            f"loss_fn must return one number, the mean over the batch, but returned the shape "
            f"{tuple(loss.shape)}; take its mean"
        )
    return loss


def _unreduced(loss_fn: Loss) -> Loss:
    """The same loss before its mean is taken."""
    if isinstance(loss_fn, nn.Module) and hasattr(loss_fn, "reduction"):
        each: Any = copy.copy(loss_fn)
        each.reduction = "none"
        return cast(Loss, each)
    if not isinstance(loss_fn, nn.Module) and "reduction" in _parameters(loss_fn):
        return partial(cast(Callable[..., Tensor], loss_fn), reduction="none")
    raise InvalidInputError(
        "to weigh samples, loss_fn must have a `reduction`, as the losses of torch have; give it "
        "one, or weigh in train_step"
    )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return {}


def samples_in(targets: Any) -> int:
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


def named(metrics: Sequence[Metric], loss_fn: Loss) -> dict[str, Callable[[Any, Any], Any]]:
    """Metrics by name.

    Args:
        metrics: "accuracy", or functions of outputs and targets.
        loss_fn: Tells whether a single output is a logit or a probability.

    Raises:
        InvalidInputError: If one is none, or has the name of another.
    """
    found: dict[str, Callable[[Any, Any], Any]] = {}
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
        found[name] = metric if callable(metric) else partial(_accuracy, loss_fn=loss_fn)
    return found


def _accuracy(outputs: Any, y: Tensor, *, loss_fn: Loss) -> Tensor:
    """The share of samples that are right: the largest of scores [B, C], or the side of [B, 1]."""
    if not isinstance(outputs, Tensor):
        raise InvalidInputError(
            f"'accuracy' needs one tensor of scores, but the model returns "
            f"{type(outputs).__name__}; give a function of outputs and targets"
        )
    if outputs.ndim >= 2 and outputs.shape[1] >= 2:
        return (outputs.argmax(dim=1) == y).float().mean()
    if outputs.numel() != y.numel():
        raise InvalidInputError(
            f"'accuracy' needs scores [B, C], or one output and one target a sample, but got the "
            f"shapes {tuple(outputs.shape)} and {tuple(y.shape)}; give a function"
        )
    return ((outputs.flatten() > _boundary(loss_fn)) == (y.flatten() > 0.5)).float().mean()


def _boundary(loss_fn: Loss) -> float:
    """Between the two classes of a single output."""
    kinds = {0.0: _OF_LOGITS, 0.5: _OF_PROBABILITIES}
    for boundary, losses in kinds.items():
        if loss_fn in losses or type(loss_fn) in losses:
            return boundary
    raise InvalidInputError(
        "'accuracy' of one output needs a loss that tells what it is: BCEWithLogitsLoss and its "
        "kind mean a logit, BCELoss a probability; give a function of outputs and targets"
    )
