"""What a run has to know of torch's optimizers and schedulers."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.schedules import ADAPTIVE, SGD

_PER_STEP = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)
_PLAIN = ("SGD", "ASGD", "LBFGS", "Rprop")


def usual_rate(optimizer: torch.optim.Optimizer) -> float:
    """The default learning rate of an optimizer; torch's own for SGD is far below what is used."""
    if type(optimizer).__name__ in _PLAIN:
        return SGD
    default = inspect.signature(type(optimizer)).parameters.get("lr")
    value = None if default is None else default.default
    return float(value) if isinstance(value, float | int) else ADAPTIVE


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step has to evaluate the loss by itself, as LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def is_per_step(scheduler: Any) -> bool:
    """Whether a scheduler, or one inside it, counts batches."""
    inner = getattr(scheduler, "_schedulers", ())
    return isinstance(scheduler, _PER_STEP) or any(is_per_step(each) for each in inner)


def check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise `InvalidInputError` if a scheduler needs a metric, or is another optimizer's."""
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InvalidInputError(
            "a scheduler must be stepped without a metric, but got ReduceLROnPlateau; leave it "
            "out: policy='default' lowers the rate when the validation metric asks for it"
        )
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InvalidInputError("the scheduler must be that of the optimizer, but it has another")
