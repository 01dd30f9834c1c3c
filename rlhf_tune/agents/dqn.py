"""A double deep Q-network over moves that are described by features, with masked actions.

The network scores a pair (observation, move), so one set of weights serves any number of moves,
and what it learns of one move carries over to similar ones. Sources: Mnih et al. (2015),
doi:10.1038/nature14236 (replay, target network); van Hasselt et al. (2016), arXiv:1509.06461
(double target); He et al. (2016), arXiv:1511.04636 (actions as input of the network).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents import losses
from rlhf_tune.agents.exploration import epsilon_greedy
from rlhf_tune.agents.replay import Batch
from rlhf_tune.errors import InvalidInputError, optional

with optional("torch", extra="torch"):
    import torch
    from torch import Tensor

Weights = list[tuple[Tensor, Tensor]]
"""Weight [outputs, inputs] and bias [outputs] of each layer."""
Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""The same in NumPy, as `Network` takes them: weights are [inputs, outputs]."""


class DQN:
    """Q(observation, move) and its learning rule.

    It draws from generators of its own, so the user's random streams are not touched, and its
    weights are a function of the seed and the batches learned from.
    """

    def __init__(
        self,
        moves: NDArray[np.floating],
        observation_size: int,
        *,
        hidden: tuple[int, ...] = (32, 32),
        learning_rate: float = 3e-3,
        target_period: int | None = 10,
        seed: int = 0,
    ) -> None:
        """Initialise the weights; the output layer starts at zero, so every Q is 0 at first.

        Args:
            moves: [A, F] features of the A moves.
            observation_size: O.
            hidden: Widths of the hidden layers.
            learning_rate: Of Adam.
            target_period: Steps between copies to the target network; None does without one
                (the online network values its own choice).
            seed: Of weights and exploration.

        Raises:
            InvalidInputError: If `moves` is not two-dimensional, or `target_period` below 1.
        """
        if moves.ndim != 2:
            raise InvalidInputError(f"`moves` must have shape [A, F], but got {moves.shape}")
        if target_period is not None and target_period < 1:
            raise InvalidInputError(f"`target_period` must be at least 1, but got {target_period}")
        self._moves = torch.as_tensor(moves, dtype=torch.float32)
        self._weights = initial_weights((observation_size + moves.shape[1], *hidden, 1), seed)
        self._target = copied(self._weights)
        self._optimizer = torch.optim.Adam(
            [t.requires_grad_() for layer in self._weights for t in layer], lr=learning_rate
        )
        self._target_period = target_period
        self._steps = 0
        self._rng = np.random.default_rng(seed)

    def values(self, observations: NDArray[np.floating]) -> NDArray[np.float32]:
        """The values [B, A] of all moves at observations [B, O]."""
        with torch.inference_mode():
            return self._all_moves(self._weights, _tensor(observations)).numpy()

    @property
    def layers(self) -> Layers:
        """A copy of weight [inputs, outputs] and bias of each layer; its input is a pair."""
        return layers_of(self._weights)

    def score(
        self, observations: NDArray[np.floating], actions: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """The values [B] of pairs of an observation [B, O] and a move's features [B, F]."""
        with torch.inference_mode():
            pairs = torch.cat([_tensor(observations), _tensor(actions)], dim=1)
            return forward(self._weights, pairs).numpy()

    def act(
        self, observation: NDArray[np.floating], mask: NDArray[np.bool_], epsilon: float = 0.0
    ) -> int:
        """An allowed move for one observation [O], epsilon-greedy.

        Raises:
            NoAllowedMoveError: If `mask` [A] allows nothing.
        """
        return epsilon_greedy(self.values(observation[None])[0], mask, epsilon, self._rng)

    def learn(self, batch: Batch) -> float:
        """Take one gradient step on a batch; returns its Huber loss before the step."""
        pairs = torch.cat([_tensor(batch.observation), _tensor(batch.action)], dim=1)
        with torch.inference_mode(False), torch.enable_grad():
            error = _tensor(batch.prior) + forward(self._weights, pairs) - self._targets(batch)
            loss = losses.huber(error)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        self._steps += 1
        if self._target_period is not None and self._steps % self._target_period == 0:
            self._target = copied(self._weights)
        return float(loss.detach())

    def _targets(self, batch: Batch) -> Tensor:
        mask, prior = torch.as_tensor(batch.next_mask), _tensor(batch.next_prior)
        with torch.no_grad():
            observation = _tensor(batch.next_observation)
            selector = self._all_moves(self._weights, observation)
            value = (
                selector
                if self._target_period is None
                else self._all_moves(self._target, observation)
            )
        return losses.double_q_target(
            _tensor(batch.reward), _tensor(batch.discount), prior + selector, prior + value, mask
        )

    def _all_moves(self, weights: Weights, observations: Tensor) -> Tensor:
        b, a = len(observations), len(self._moves)
        pairs = torch.cat(
            [observations[:, None].expand(b, a, -1), self._moves.expand(b, a, -1)], dim=2
        )
        return forward(weights, pairs.reshape(b * a, -1)).reshape(b, a)


def initial_weights(sizes: tuple[int, ...], seed: int) -> Weights:
    """Weights of layers between so many units, from a generator of their own; the last are zero.

    Source: He et al. (2015), arXiv:1502.01852, uniformly.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        weight = torch.empty(outputs, inputs)
        weight.uniform_(-math.sqrt(6 / inputs), math.sqrt(6 / inputs), generator=generator)
        layers.append((weight, torch.zeros(outputs)))
    layers[-1][0].zero_()
    return layers


def forward(weights: Weights, x: Tensor) -> Tensor:
    """The outputs [..., outputs] at x [..., inputs]; [...] if there is but one."""
    for weight, bias in weights[:-1]:
        x = torch.nn.functional.linear(x, weight, bias).relu()
    return torch.nn.functional.linear(x, *weights[-1]).squeeze(-1)


def copied(weights: Weights) -> Weights:
    """A copy that learns nothing: a target network."""
    return [(w.detach().clone(), b.detach().clone()) for w, b in weights]


def layers_of(weights: Weights) -> Layers:
    """A copy in NumPy."""
    return [(w.detach().numpy().T.copy(), b.detach().numpy().copy()) for w, b in weights]


def weights_of(layers: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> Weights:
    """A copy of `layers_of`, in single precision."""
    return [(_tensor(weight.T).clone(), _tensor(bias).clone()) for weight, bias in layers]


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32))
