"""The state of a torch training run: everything that training changes, copied in memory."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.streams import restore_streams, streams
from rlhf_tune_integrations.pytorch.modules import evaluating


class Stateful(Protocol):
    """Anything with a state of its own, such as a GradScaler or a scheduler."""

    def state_dict(self) -> Any:
        """Its state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state."""
        ...


@dataclass(frozen=True)
class StateSnapshot:
    """What `State.snapshot` copies.

    Attributes:
        tensors: Parameters and buffers, and what else the optimizer steps.
        gradients: Of the parameters, where they are kept.
        moments: The optimizer's state, by parameter.
        groups: The options of its parameter groups.
        others: The states of the other objects.
        own: How many of the tensors are the model's.
        streams: The random streams.
    """

    tensors: list[Tensor]
    gradients: list[Tensor | None]
    moments: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    others: list[Any]
    own: int
    streams: dict[str, Any]


_NOTHING = StateSnapshot([], [], [], [], [], 0, {})


@final
class State:
    """Model, optimizer, random streams and what else belongs to a run; and the learning rate.

    Parameter groups keep the ratios of their learning rates; the first one's is called the rate.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        others: Sequence[Stateful] = (),
        *,
        gradients: bool = False,
        owner: str | None = None,
    ) -> None:
        """Take charge of a run's state.

        Args:
            model: Its parameters and buffers, persistent or not.
            optimizer: Over some or all of the parameters.
            others: Further objects that training changes.
            gradients: Whether `.grad` outlives a step, as in gradient accumulation.
            owner: What else sets the learning rate; setting it here is then refused.

        Raises:
            InvalidInputError: If the first group's learning rate is not above 0.
        """
        self.model, self.optimizer = model, optimizer
        self.others, self._gradients, self._owner = tuple(others), gradients, owner
        self._ratios: list[float] = []
        if owner is None:
            self._learn_ratios()

    @property
    def learning_rate(self) -> float:
        """The rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def check_rate(self, rate: float) -> None:
        """Raise `InvalidInputError` if `set_rate` would not take this."""
        if self._owner is not None:
            raise InvalidInputError(
                f"the learning rate must have one owner, but {self._owner} sets it too; "
                f"leave that out, or say policy='constant'"
            )
        if not 0 < rate < math.inf:
            raise InvalidInputError(f"a learning rate must be above 0 and finite, but got {rate}")

    def set_rate(self, rate: float) -> None:
        """Change the learning rate of all groups; one that is kept in a tensor stays there.

        Raises:
            InvalidInputError: If it is not allowed.
        """
        self.check_rate(rate)
        self._learn_ratios()
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * ratio)
            else:
                group["lr"] = rate * ratio

    def _learn_ratios(self) -> None:
        """Of groups that are new; some are added while training, to unfreeze layers."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        if not rates[0] > 0:
            raise InvalidInputError(
                f"the first parameter group must have a learning rate > 0, as the others are "
                f"scaled with it, but it has {rates[0]}; set its lr"
            )
        self._ratios += [rate / rates[0] for rate in rates[len(self._ratios) :]]

    @torch.no_grad()
    def snapshot(self, into: StateSnapshot | None = None) -> StateSnapshot:
        """A copy of everything, into the memory of one that is needed no longer."""
        old = into or _NOTHING
        moments = [self.optimizer.state.get(p, {}) for p in self._stepped()]
        groups = [_options(group) for group in self.optimizer.param_groups]
        gradients = [p.grad for p in self.model.parameters()] if self._gradients else []
        return StateSnapshot(
            tensors=copied(list(self._tensors()), old.tensors),
            gradients=copied(gradients, old.gradients),
            moments=copied(moments, old.moments),
            groups=copied(groups, old.groups),
            others=copied([other.state_dict() for other in self.others], old.others),
            own=self._count(),
            streams=streams(),
        )

    @torch.no_grad()
    def restore(self, kept: StateSnapshot) -> None:
        """Go back to a snapshot, in place: parameters and moments stay the same tensors."""
        if self._count() != kept.own:
            raise InvalidInputError(
                f"parameters and buffers must not be added to the model or taken away while it "
                f"trains, but it had {kept.own} of them and has {self._count()}"
            )
        # What the optimizer was given since comes last, and has no value to go back to.
        for tensor, value in zip(self._tensors(), kept.tensors, strict=False):
            if tensor.shape == value.shape:
                tensor.copy_(value)
            else:  # a buffer that grows
                tensor.data = value.clone()
        for weight, gradient in zip(self.model.parameters(), kept.gradients, strict=False):
            weight.grad = copied(gradient, weight.grad)
        state = self.optimizer.state
        # Parameters that were added later have no moments to go back to, and keep their options.
        for parameter, moments in itertools.zip_longest(self._stepped(), kept.moments):
            if moments:
                state[parameter] = copied(moments, state.get(parameter))
            else:
                state.pop(parameter, None)
        for group, options in zip(self.optimizer.param_groups, kept.groups, strict=False):
            group.update(copied(options, group))
        for other, its in zip(self.others, kept.others, strict=True):
            other.load_state_dict(copied(its, None))
        restore_streams(kept.streams)

    @contextmanager
    def only_looking(self, *, gradients: bool) -> Iterator[None]:
        """Evaluation mode; on leaving, modes, buffers and random streams are as before.

        Args:
            gradients: Whether what is done inside may need them.
        """
        kept = streams()
        try:
            with evaluating(self.model), torch.set_grad_enabled(gradients):
                yield
        finally:
            restore_streams(kept)

    def _count(self) -> int:
        """Parameters and buffers of the model."""
        return sum(1 for _ in itertools.chain(self.model.parameters(), self.model.buffers()))

    def _tensors(self) -> Iterator[Tensor]:
        own = list(itertools.chain(self.model.parameters(), self.model.buffers()))
        known = {id(tensor) for tensor in own}
        # A loss may have weights too.
        return itertools.chain(own, (p for p in self._stepped() if id(p) not in known))

    def _stepped(self) -> Iterator[Tensor]:
        return (p for group in self.optimizer.param_groups for p in group["params"])


def copied(tree: Any, old: Any) -> Any:
    """A copy of nested tensors, lists, tuples and dicts, into the tensors of `old` that fit."""
    if isinstance(tree, Tensor):
        if _fits(tree, old):
            return old.copy_(tree)
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        olds = old if isinstance(old, Mapping) else {}
        return {key: copied(value, olds.get(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        known = list(old) if isinstance(old, list | tuple) and len(old) == len(tree) else ()
        pairs = itertools.zip_longest(tree, known)
        return type(tree)([copied(value, was) for value, was in pairs])
    return copy.deepcopy(tree)


def _fits(tensor: Tensor, old: Any) -> bool:
    return (
        isinstance(old, Tensor)
        and old.shape == tensor.shape
        and old.dtype == tensor.dtype
        and old.device == tensor.device
    )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
