"""Who decides in fine-tuning: plans, a search over them, a Q-network, and agents of two levels.

An agent is anything with `act(observation, mask)`, as those of `rlhf_tune.agents`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.network import Network
from rlhf_tune.agents.network import load as load_network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.groups import ALL
from rlhf_tune.fine_tuning.observation import GLOBAL, OF_GROUP
from rlhf_tune.fine_tuning.process import FineTuning, Tuned
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.tensors import SHIPPED

Mask = NDArray[np.bool_]
Plan = Sequence[tuple[str, str]]
"""Group and operation of each decision."""

OPERATION_FEATURES = ("tune", "tune slowly", "return")
INPUTS = len(GLOBAL) + 3 * len(OF_GROUP) + len(OPERATION_FEATURES)


class Agent(Protocol):
    """Who decides."""

    def act(self, observation: Any, mask: Any) -> int:
        """The number of an action that the mask [A] allows."""
        ...


@dataclass(frozen=True)
class Episode:
    """What was decided from one beginning on.

    Attributes:
        record: The decisions.
        run: The guarded run that they made, which holds its best state; None once let go of.
        plan: Its name, if it followed one.
        worth: Of the best state: certified, then by the metric, then by the validation loss.
        metric: Of the best state.
    """

    record: Sequence[Tuned]
    run: GuardedRun | None
    plan: str
    worth: tuple[bool, float, float]
    metric: float


def episode_of(tuning: FineTuning, plan: str = "") -> Episode:
    """The episode as far as it has come."""
    best = tuning.run.best
    validation = tuning.run.validation if best.stretch is None else best.stretch.validation
    worth = best.certified, -best.value, -validation["val_loss"]
    return Episode(list(tuning.record), tuning.run, plan, worth, validation[tuning.monitor])


def play(
    tuning: FineTuning, agent: Agent, listen: Callable[[Tuned], object] = lambda _: None
) -> Episode:
    """An agent's episode, told decision by decision."""
    tuning.begin()
    while not tuning.over:
        listen(tuning.step(int(agent.act(tuning.seen(), tuning.mask()))))
    return episode_of(tuning)


def follow(
    tuning: FineTuning,
    plan: Plan,
    name: str = "",
    listen: Callable[[Tuned], object] = lambda _: None,
) -> Episode:
    """The episode of a plan; a decision that is masked ends it."""
    tuning.begin()
    operations = [operation.name for operation in tuning.operations]
    for group, operation in plan:
        action = tuning.names.index(group) * len(operations) + operations.index(operation)
        if tuning.over or not tuning.mask()[action]:
            break
        listen(tuning.step(action))
    return episode_of(tuning, name)


def plans(groups: Sequence[str], decisions: int) -> dict[str, Plan]:
    """Each group alone; and the last one but "all", then all (Kumar et al., 2022: LP-FT)."""
    found: dict[str, Plan] = {group: [(group, "tune")] * decisions for group in groups}
    if ALL in groups and len(groups) > 1:
        head, half = groups[-2], decisions // 2
        found[f"{head}, then {ALL}"] = [(head, "tune")] * half + [(ALL, "tune")] * (
            decisions - half
        )
    return found


def search(
    tuning: FineTuning, listen: Callable[[Tuned], object] = lambda _: None
) -> Iterator[Episode]:
    """Each plan with an equal part of the budget, one after the other.

    Raises:
        InvalidInputError: If the budget does not allow a decision for each.
    """
    count = len(plans(tuning.names, 1))
    if tuning.steps < count:
        raise InvalidInputError(
            f"the budget must allow a decision for each of {count} plans, but allows "
            f"{tuning.steps}; give more, or name fewer groups"
        )
    for name, plan in plans(tuning.names, tuning.steps // count).items():
        yield follow(tuning, plan, name, listen)


@final
class Learned:
    """A Q-network that scores each action from the features of its group and those of the others.

    One network serves any number of groups, of any architecture. It sees the run, the group, the
    mean and the maximum over the groups, and the operation; to stop is worth 0.
    """

    def __init__(self, network: Network, operations: Sequence[str], margin: float = 0.0) -> None:
        """Play a network.

        Args:
            network: From the inputs of `pairs` to the gain that is to come.
            operations: Names of the environment's, in its order.
            margin: The gain that going on must be worth.
        """
        self._network, self._operations, self._margin = network, tuple(operations), margin

    def act(self, observation: NDArray[np.floating[Any]], mask: Mask) -> int:
        """The open action worth most; "stop" where none is worth the margin."""
        values = self.values(observation, mask)
        best = int(values.argmax())
        stop = self._operations.index("stop")
        return best if values[best] > self._margin or not mask[stop] else stop

    def values(self, observation: NDArray[np.floating[Any]], mask: Mask) -> NDArray[np.float64]:
        """The value of each action [A]; -inf where masked, or unknown to the network."""
        groups = len(mask) // len(self._operations)
        values = np.full((groups, len(self._operations)), -np.inf)
        for number, name in enumerate(self._operations):
            if name in OPERATION_FEATURES:
                values[:, number] = self._network(pairs(observation[None], groups, name)[0])[:, 0]
        return np.where(mask, values.ravel(), -np.inf)


def pairs(
    observations: NDArray[np.floating[Any]], groups: int, operation: str
) -> NDArray[np.float32]:
    """[B, G, 34] what the network sees of each group under an operation, of observations [B, O]."""
    ends = len(GLOBAL), len(GLOBAL) + groups * len(OF_GROUP)
    whole, own = observations[:, : ends[0]], observations[:, ends[0] : ends[1]]
    own = own.reshape(len(observations), groups, len(OF_GROUP))
    shown = [
        np.broadcast_to(whole[:, None], (*own.shape[:2], whole.shape[1])),
        own,
        np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape),
        np.broadcast_to(own.max(axis=1, keepdims=True), own.shape),
        np.broadcast_to([float(operation == o) for o in OPERATION_FEATURES], (*own.shape[:2], 3)),
    ]
    return np.concatenate(shown, axis=2).astype(np.float32)


@final
class TwoLevel:
    """A policy for each level: a chooser of the group, and one of the operation for each group."""

    def __init__(self, chooser: Agent, operators: Mapping[int, Agent], operations: int) -> None:
        """Combine.

        Args:
            chooser: Acts on groups, of those that have an open operation.
            operators: By the number of the group; they act on its operations.
            operations: Their number.
        """
        self._chooser, self._operators, self._operations = chooser, operators, operations

    def act(self, observation: Any, mask: Mask) -> int:
        """The group by the chooser, the operation by the group's own agent."""
        by_group = np.asarray(mask).reshape(-1, self._operations)
        group = int(self._chooser.act(observation, by_group.any(axis=1)))
        operation = int(self._operators[group].act(observation, by_group[group]))
        return group * self._operations + operation


def load(path: Path, operations: Sequence[str]) -> Learned:
    """The network of a file.

    Raises:
        InvalidInputError: If it holds none.
    """
    try:
        network, others = load_network(path)
        if network.inputs != INPUTS:
            raise KeyError(f"a layer of {INPUTS} inputs")
        return Learned(network, operations, float(others["margin"][0]))
    except KeyError as exc:
        raise InvalidInputError(
            f"the policy of fine-tuning must be a network of its own kind, such as "
            f"fine_tuning.safetensors of this package, but {path} lacks {exc}"
        ) from exc


@cache
def shipped(operations: tuple[str, ...]) -> Learned:
    """The network that comes with the package."""
    return load(SHIPPED.with_name("fine_tuning.safetensors"), operations)
