"""Who decides in fine-tuning: plans, a search over them, a Q-network, and agents of two levels.

An agent is anything with `act(observation, mask)`, as those of `rlhf_tune.agents`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.network import Network
from rlhf_tune.agents.network import load as load_network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.groups import ALL
from rlhf_tune.fine_tuning.observation import GLOBAL, OF_GROUP
from rlhf_tune.fine_tuning.operations import FACTORS
from rlhf_tune.fine_tuning.process import FineTuning, Tuned
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.stretch import Checkpoint
from rlhf_tune.run.trainer import Metrics
from rlhf_tune.tensors import SHIPPED

Mask = NDArray[np.bool_]

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
    run = tuning.run
    metric = _validation(run, run.best)[tuning.monitor]
    return Episode(list(tuning.record), run, plan, _worth(run, run.best), metric)


def _worth(run: GuardedRun, state: Checkpoint) -> tuple[bool, float, float]:
    return state.certified, -state.value, -_validation(run, state)["val_loss"]


def _validation(run: GuardedRun, state: Checkpoint) -> Metrics:
    return run.validation if state.stretch is None else state.stretch.validation


def play(
    tuning: FineTuning, agent: Agent, listen: Callable[[Tuned], object] = lambda _: None
) -> Episode:
    """An agent's episode, told decision by decision."""
    tuning.begin()
    while not tuning.over:
        listen(tuning.step(int(agent.act(tuning.seen(), tuning.mask()))))
    return episode_of(tuning)


def plans(groups: Sequence[str], decisions: int) -> dict[str, Sequence[str]]:
    """Groups by decision: each alone; and the last but "all" once, then all.

    The latter is LP-FT of Kumar et al. (2022), arXiv:2202.10054.
    """
    found: dict[str, Sequence[str]] = {group: [group] * decisions for group in groups}
    if ALL in groups and len(groups) > 1:
        head = groups[-2]
        found[f"{head}, then {ALL}"] = [head] + [ALL] * (decisions - 1)
    return found


_ROUNDING = 1e-9  # of a quotient that would be a whole number

KEPT = 3
"""One in so many goes on to the next round; chosen on source tasks, level with 2."""


def rounds(candidates: int, steps: int) -> list[int]:
    """Of successive halving: the candidates of each round.

    Where there are too few steps for one of each, the last rounds are left out.
    """
    counts = [candidates]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // KEPT))
    return [
        count for count, spent in zip(counts, accumulate(counts), strict=True) if spent <= steps
    ]


def parts(budget: float, shares: Sequence[float]) -> list[int]:
    """The optimizer steps of each candidate of a round: equal parts of what they cost.

    A step costs the share of the weights that it trains, so that a small group goes further; but
    none further than one of all weights would by the whole of the round.

    Args:
        budget: Of the round, in steps of all weights.
        shares: Of the weights, by candidate.
    """
    each = budget / len(shares)
    return [max(1, int(min(budget, each / share) + _ROUNDING)) for share in shares]


@dataclass(eq=False)
class _Candidate:
    """A plan at a rate, in the middle of its episode.

    Attributes:
        name: Of both.
        tuning: Its own process, on the trainer of all.
        actions: By round.
        state: Where it goes on, while others are in hand; None before its first round.
        ended: Whether its last stretch was taken back.
    """

    name: str
    tuning: FineTuning
    actions: Sequence[int]
    state: Checkpoint | None = None
    ended: bool = False

    def share(self, number: int) -> float:
        """Of the weights, that it trains in a round."""
        return self.tuning.share(self.actions[number])

    def go_on(self, number: int, steps: int, listen: Callable[[Tuned], object]) -> None:
        """Its part in a round, validated after each stretch; one that is taken back ends it."""
        if self.state is None:
            self.tuning.begin()
            self.state = self.tuning.run.best
        self.tuning.run.take_up(self.state)
        while steps > 0 and not self.ended:
            tuned = self.tuning.step(self.actions[number], min(steps, self.tuning.stretch))
            self.ended, steps = tuned.verdict != "committed", steps - self.tuning.stretch
            listen(tuned)
        here = self.tuning.run.here
        self.state = self.tuning.run.best
        if here is not None and here is not self.state.stretch:
            snapshot = self.tuning.trainer.snapshot()
            self.state = Checkpoint(snapshot, here.value, here.satisfied, here)

    @property
    def standing(self) -> tuple[bool, tuple[bool, float, float]]:
        """Of the state in hand, higher is better."""
        run = self.tuning.run
        return not self.ended, _worth(run, self.state or run.best)

    @property
    def episode(self) -> Episode:
        """As far as it has come."""
        return episode_of(self.tuning, self.name)


def search(
    tuning: FineTuning, listen: Callable[[Tuned], object] = lambda _: None
) -> Iterator[Episode]:
    """Plans at several rates in rounds: the best third goes on, each from where it is.

    Successive halving (Karnin et al., 2013; Jamieson and Talwalkar, 2016, arXiv:1502.07943), by the
    state in hand: certified, then by the metric, then by the validation loss, as few rows make many
    ties. Rounds have equal parts of the budget, and so have the candidates of a round: see `parts`.
    Episodes come as they end; what breaks in ends all of them, and is raised after the last.
    Where the budget is too small for rounds over all rates, there is the given one alone.

    Args:
        tuning: With the operations `RATED`.
        listen: Is told each decision.

    Raises:
        InvalidInputError: If the budget does not allow a step for each plan.
    """
    left, named = float(tuning.steps * tuning.stretch), plans(tuning.names, 1)
    steps = int(left)
    if steps < len(named):
        raise InvalidInputError(
            f"the budget must allow a step for each of {len(named)} plans, but allows {steps}; "
            f"give more, or name fewer groups"
        )
    every = rounds(len(named) * len(FACTORS), steps)
    rated = [operation.name for operation in tuning.operations if operation.rate is not None]
    if not every or every[-1] > 1:
        every, rated = rounds(len(named), steps), rated[:1]
    waiting, standing = _candidates(tuning, rated, len(every)), list[_Candidate]()
    try:
        for number in range(len(every)):
            going = every[number + 1] if number + 1 < len(every) else 0
            if not waiting:  # all were taken back
                break
            shares = [one.share(number) for one in waiting]
            lengths = parts(left / (len(every) - number), shares)
            left -= sum(length * share for length, share in zip(lengths, shares, strict=True))
            for each in lengths:
                standing.append(waiting.pop(0))
                standing[-1].go_on(number, each, listen)
                standing.sort(key=lambda one: one.standing, reverse=True)
                if len(standing) > going or standing[-1].ended:  # its states are let go of
                    yield standing.pop().episode
            waiting, standing = standing, []
    except (Exception, KeyboardInterrupt):
        yield from (one.episode for one in (*standing, *waiting) if one.state)
        raise


def _candidates(tuning: FineTuning, rated: Sequence[str], count: int) -> list[_Candidate]:
    """For so many rounds; each begins as its turn comes, so that few states are held."""
    operations, found = [operation.name for operation in tuning.operations], []
    for operation in rated:
        for plan, groups in plans(tuning.names, count).items():
            own, number = copy(tuning), operations.index(operation)
            own.steps = (own.steps + 1) * count  # the last stretch of a round may be a short one
            actions = [tuning.names.index(group) * len(operations) + number for group in groups]
            found.append(_Candidate(f"{operation} {plan}", own, actions))
    return found


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
