"""A run over a torch loop written by hand that tells of each optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.driver import Run
from rlhf_tune.run.loops import Handover
from rlhf_tune_integrations.pytorch.loops import LoopTrainer
from rlhf_tune_integrations.pytorch.optimizers import usual_rate
from rlhf_tune_integrations.pytorch.state import Stateful


@final
class Stepping:
    """Drives the loop from its first step on; the run is as that of `fit`.

    Attributes:
        run: Its record and history.
        running: Whether it wants another step.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        validate: Callable[[], Mapping[str, float]],
        steps_per_epoch: int | None,
        others: Sequence[Stateful],
        **run: Any,
    ) -> None:
        """Evaluate the model as it is; the rate of the first step is set.

        Args:
            model: As for `LoopTrainer`, as are the next four.
            optimizer: Likewise.
            validate: Likewise.
            steps_per_epoch: Likewise.
            others: Likewise.
            run: As for `Run`.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        if steps_per_epoch is None or not steps_per_epoch >= 1:
            raise InvalidInputError(
                f"`steps_per_epoch` must be a whole number >= 1 where `validate` is given, but got "
                f"{steps_per_epoch}; say len(loader)"
            )
        self._handover = Handover()
        trainer = LoopTrainer(
            self._handover, model, optimizer, validate, steps_per_epoch, others=others
        )
        self._refused: CannotCertify | None = None
        self.run: Run

        def drive() -> None:
            self.run = Run(trainer, usual_rate=usual_rate(optimizer), **run)
            try:
                self.run.drive()
            except CannotCertify as error:  # told at the end, as of a loop by epochs
                self._refused = error

        self.running = self._handover.begin(drive)

    def stepped(self, loss: float) -> bool:
        """After an optimizer step; returns whether the loop is to go on."""
        if not self.running:
            raise InvalidInputError("a step must be left, but the run is over; see `running`")
        self.running = False  # also where what follows raises
        self.running = self._handover.stepped(loss)
        return self.running

    def end(self, exc: BaseException | None = None) -> None:
        """The loop is over, by itself or by an exception.

        Raises:
            BaseException: What the run raised.
        """
        self.running = False
        self._handover.end(exc)
        if self._refused is not None:
            raise self._refused
