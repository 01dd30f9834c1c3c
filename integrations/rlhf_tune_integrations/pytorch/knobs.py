"""The weights of remedies in a torch run, and the term that they add to its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.remedy import Batch, Remedy, columns_of
from rlhf_tune_integrations.pytorch.scoring import Loss, loss_of

TermOfStep = Callable[[Any, Any, Any], Any]
"""Of inputs, targets and outputs of a batch: what a `train_step` adds to its loss."""


@final
class Knobs:
    """Part of a run's state: snapshots hold the weights as they hold a scheduler.

    Attributes:
        weights: In effect, by name.
    """

    def __init__(
        self,
        remedies: Collection[Remedy],
        model: torch.nn.Module,
        loss_fn: Loss,
        groups: Any = None,
        samples: int | None = None,
    ) -> None:
        """Begin.

        Args:
            remedies: Whose terms are added.
            model: Their model.
            loss_fn: Of the run.
            groups: Of the training samples, where a remedy asks for them.
            samples: How many there are; of a stream None: its batches then have their groups as
                a further element.

        Raises:
            InvalidInputError: If groups are missing, or not asked for, or of another length.
        """
        self._remedies, self._model, self._loss_fn = tuple(remedies), model, loss_fn
        self._streams = samples is None and any(remedy.columns for remedy in remedies)
        if self._streams and groups is not None:
            raise InvalidInputError(
                "the groups of a stream must come with its batches, as a further element "
                "(x, y, groups), but got `groups` beside it"
            )
        self._all = () if self._streams else columns_of(remedies, groups, samples)
        self._columns: Sequence[Tensor | None] = [None] * len(self._remedies)
        self.weights = {k: w for remedy in remedies for k, w in remedy.first.items()}
        self._asked = False

    def set(self, hyperparameters: Mapping[str, float]) -> None:
        """Take the weights among these."""
        self.weights |= {k: hyperparameters[k] for k in self.weights.keys() & hyperparameters}

    def take(self, batch: Any, rows: Sequence[int]) -> Any:
        """Look at the groups of a batch; returns it without them.

        Args:
            batch: As the data gives it.
            rows: Of its samples among the training samples; those of a stream are not known.
        """
        if self._streams:
            *rest, groups = batch
            self._columns = [_tensor(r.columns and r.columns(groups, None)) for r in self._remedies]
            return type(batch)(rest) if isinstance(batch, list | tuple) else rest
        self._columns = [_tensor(None if c is None else c[list(rows)]) for c in self._all]
        return batch

    def term(self, x: Any, y: Any, outputs: Any, sample_weights: Any = None) -> Any:
        """What all remedies add to the loss of a batch."""
        self._asked = True

        def loss(given: Any) -> Any:
            return loss_of(self._loss_fn, given, y, sample_weights)

        total: Any = 0.0
        for remedy, columns in zip(self._remedies, self._columns, strict=True):
            batch = Batch(x, y, loss, None if columns is None else _placed(columns, outputs))
            weights = {name: self.weights[name] for name in remedy.names}
            total = total + remedy.term(self._model, batch, outputs, weights)
        return total

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


def _tensor(columns: NDArray[np.float32] | None) -> Tensor | None:
    return None if columns is None else torch.as_tensor(columns)


def _placed(columns: Tensor, outputs: Any) -> Tensor:
    """Beside the outputs of the same samples."""
    if len(outputs) != len(columns):
        raise InvalidInputError(
            f"the term must be asked for with the whole batch, whose groups are known, but the "
            f"batch has {len(columns)} samples, and there are {len(outputs)} outputs"
        )
    return columns.to(outputs.device)


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
