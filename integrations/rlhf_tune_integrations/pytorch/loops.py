"""A trainer over a loop that another library owns, and what such loops are refused for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, final

import numpy as np
import torch

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.loops import Handover
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.trainer import Metrics
from rlhf_tune_integrations.pytorch.modules import all_finite, check_optimizer
from rlhf_tune_integrations.pytorch.state import State, Stateful, StateSnapshot
from rlhf_tune_integrations.pytorch.statistics import normalising, refresh

_REFRESHING = 20  # batches


@final
class LoopTrainer:
    """`Trainer` of a loop: it takes the steps, the order of the data and the batch size are its.

    Attributes:
        batches: The latest ones that were trained on, where the loop puts them: statistics of
            BatchNorm are made anew from them.
    """

    def __init__(
        self,
        handover: Handover,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluate: Callable[[], Mapping[str, float]],
        steps_per_epoch: int,
        *,
        others: Sequence[Stateful] = (),
        trained: bool = False,
        forward: Callable[[Any], object] | None = None,
    ) -> None:
        """Take charge of the state; nothing is changed yet.

        Args:
            handover: From the loop.
            model: That the loop trains.
            optimizer: That it steps.
            evaluate: Metrics on validation data, "val_loss" among them; the model is then in
                evaluation mode, without gradients.
            steps_per_epoch: Optimizer steps of a pass over the data.
            others: Further objects that training changes, such as a GradScaler.
            trained: Whether the model has learned its task before.
            forward: Calls the model on one of `batches`.

        Raises:
            InvalidInputError: If the optimizer trains nothing of the model.
        """
        check_optimizer(model, optimizer)
        self.model, self.steps_per_epoch = model, steps_per_epoch
        self._handover, self._optimizer, self._evaluate = handover, optimizer, evaluate
        self._trained, self._forward = trained, forward
        self.batches: deque[Any] = deque(maxlen=_REFRESHING)
        self._state = State(model, optimizer, others)

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The rate of the first parameter group."""
        return {"learning_rate": self._state.learning_rate}

    def set(self, **hyperparameters: float) -> None:
        """Change the learning rate; see `Trainer.set`."""
        unknown = sorted(hyperparameters.keys() - {"learning_rate"})
        if unknown:
            raise InvalidInputError(
                f"learning_rate can be set, as all else is the loop's, but got {unknown}"
            )
        if hyperparameters:
            self._state.set_rate(hyperparameters["learning_rate"])

    def train(self, steps: int) -> Metrics:
        """Have steps taken; see `Trainer.train`."""
        losses: list[float] = []
        taken, total = 0, 0.0
        while taken < steps and math.isfinite(total):
            loss, taken = self._handover.step(), taken + 1
            if loss is not None:
                losses.append(loss)
                total += loss
        if not losses:
            return {"steps": taken}
        with np.errstate(invalid="ignore", over="ignore"):
            spread = float(np.std(losses))
        return {"steps": taken, "loss": float(np.mean(losses)), "spread": spread}

    def evaluate(self) -> Metrics:
        """Metrics on the validation data; see `Trainer.evaluate`."""
        return self._handover.call(self._evaluated)

    def _evaluated(self) -> Metrics:
        with self._state.only_looking(gradients=False):
            return as_metrics(self._evaluate())

    def refresh(self) -> bool:
        """Make the statistics of BatchNorm anew, from the latest batches; see `GuardedRun`."""
        layers, batches = normalising(self.model), list(self.batches)
        if not layers or not batches:
            return False
        self._handover.call(partial(refresh, self.model, layers, batches, self._forward))
        return True

    def knowledge(self) -> float:
        """0 where the model has learned its task before, NaN where that is not known."""
        return 0.0 if self._trained else math.nan

    def only_looking(self) -> AbstractContextManager[None]:
        """Evaluation mode; on leaving, modes, statistics and random streams are as before."""
        return self._state.only_looking(gradients=True)

    @property
    def finite(self) -> bool:
        """Whether all weights are."""
        return all_finite(self.model)

    def snapshot(self, into: StateSnapshot | None = None) -> StateSnapshot:
        """Everything that training changes, but for the place in the data."""
        return self._handover.call(partial(self._state.snapshot, into))

    def restore(self, snapshot: StateSnapshot) -> None:
        """Go back to a snapshot; the data, and the loop's own counters, go on."""
        self._handover.call(partial(self._state.restore, snapshot))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same where a snapshot is taken up; see `Trainer`."""
        from rlhf_tune_integrations.pytorch.saving import identity  # most runs are not written

        steps = {"steps per epoch": self.steps_per_epoch}
        return {**identity(self.model, self._optimizer, self._state.others), **steps}

    def saved(self, snapshot: StateSnapshot) -> dict[str, Any]:
        """A snapshot as plain values; see `Trainer`."""
        from rlhf_tune_integrations.pytorch.saving import plain

        values: dict[str, Any] = plain(vars(snapshot))
        return values

    def loaded(self, values: Mapping[str, Any]) -> StateSnapshot:
        """A snapshot from plain values; see `Trainer`."""
        from rlhf_tune_integrations.pytorch.saving import revived

        return StateSnapshot(**revived(values))


def check_alone(processes: int, who: str) -> None:
    """Raise `InvalidInputError` where several processes train one model.

    Args:
        processes: That do.
        who: Says so.
    """
    if processes > 1:
        raise InvalidInputError(
            f"a run must train in one process, but {who} has {processes}: each would decide and "
            f"roll back by itself; use one device, or several runs"
        )
