"""The weights of remedies in a torch run, and the term that they add to its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.remedy import Batch, Remedy
from rlhf_tune_integrations.pytorch.scoring import Loss, loss_of

TermOfStep = Callable[[Any, Any, Any], Any]
"""Of inputs, targets and outputs of a batch: what a `train_step` adds to its loss."""


@final
class Knobs:
    """Part of a run's state: snapshots hold the weights as they hold a scheduler.

    Attributes:
        weights: In effect, by name.
    """

    def __init__(self, remedies: Iterable[Remedy], model: torch.nn.Module, loss_fn: Loss) -> None:
        self._remedies, self._model, self._loss_fn = tuple(remedies), model, loss_fn
        self.weights = {k: w for remedy in remedies for k, w in remedy.first.items()}
        self._asked = False

    def set(self, hyperparameters: Mapping[str, float]) -> None:
        """Take the weights among these."""
        self.weights |= {k: hyperparameters[k] for k in self.weights.keys() & hyperparameters}

    def term(self, x: Any, y: Any, outputs: Any, sample_weights: Any = None) -> Any:
        """What all remedies add to the loss of a batch."""
        self._asked = True
        batch = Batch(x, y, lambda given: loss_of(self._loss_fn, given, y, sample_weights))
        return sum(
            remedy.term(self._model, batch, outputs, {k: self.weights[k] for k in remedy.names})
            for remedy in self._remedies
        )

    def stepped(self, train_step: Callable[[Any, TermOfStep], Any], batch: Any) -> Any:
        """The loss of a user's own step, which must ask for the term.

        Raises:
            InvalidInputError: If it did not.
        """
        self._asked = False
        loss = train_step(batch, self.term)
        if not self._asked:
            raise InvalidInputError(
                f"with reach=True train_step(batch, term) must add term(x, y, outputs) to its "
                f"loss, but it never called it, so {sorted(self.weights)} would move nothing"
            )
        return loss

    def state_dict(self) -> dict[str, float]:
        """The weights."""
        return dict(self.weights)

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go back to some weights."""
        self.weights = dict(state_dict)


def check_step(train_step: Callable[..., Any] | None, *, closes: bool) -> None:
    """Raise `InvalidInputError` if a remedy has no place in the steps of a run."""
    if closes:
        raise InvalidInputError(
            "with reach=True an optimizer must take its loss as it is, but this one evaluates it "
            "several times a step, each time on other attacked inputs; take Adam or SGD"
        )
    if train_step is None:
        return
    try:
        inspect.signature(train_step).bind(None, None)
    except TypeError as exc:
        raise InvalidInputError(
            f"with reach=True train_step must take (batch, term) and add term(x, y, outputs) to "
            f"its loss, but it does not: {exc}"
        ) from exc
