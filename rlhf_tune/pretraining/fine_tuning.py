"""Trains the Q-network of fine-tuning on recorded experience, by double Q-learning.

The reward is what a source task can tell and a user's cannot: how much better the state that would
be handed back is on many rows held out. So the network learns how far to trust a few validation
rows. Weights, forward, target and loss are the agents' (`rlhf_tune.agents`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from rlhf_tune.agents.dqn import Layers, copied, forward, initial_weights, layers_of
from rlhf_tune.agents.losses import double_q_target, huber
from rlhf_tune.agents.network import Network
from rlhf_tune.agents.network import save as save_network
from rlhf_tune.errors import InvalidInputError, optional
from rlhf_tune.fine_tuning.policies import OPERATION_FEATURES, pairs

with optional("torch", extra="torch"):
    import torch
    from torch import Tensor

Floats = NDArray[np.floating[Any]]

# Not tuned:
_HIDDEN = (64, 64)
_BATCH = 256
_RATE = 1e-3
_TARGET_PERIOD = 200
_SCALE = 10.0  # gains are hundredths


@dataclass(frozen=True)
class Experience:
    """N transitions of episodes with G groups.

    Attributes:
        observation: [N, O]
        group: [N] that was chosen.
        operation: [N] index into `OPERATION_FEATURES`.
        reward: [N] gain less costs.
        after: [N, O] the next observation.
        goes_on: [N] whether the episode does.
        groups: G.
    """

    observation: Floats
    group: NDArray[np.integer[Any]]
    operation: NDArray[np.integer[Any]]
    reward: Floats
    after: Floats
    goes_on: NDArray[np.bool_]
    groups: int


def learn(
    experience: Experience,
    *,
    steps: int,
    seed: int,
    progress: Callable[[float], object] = lambda _: None,
) -> Network:
    """A network of the gain that is to come, for `rlhf_tune.fine_tuning.policies.Learned`.

    Args:
        experience: To learn from.
        steps: Of gradient descent.
        seed: Of weights and batches.
        progress: Is told the share that is done.

    Raises:
        InvalidInputError: If there is no experience.
    """
    if not len(experience.reward):
        raise InvalidInputError("experience must hold a transition, but holds none; record more")
    rng = np.random.default_rng(seed)
    sample = _rows(experience, rng.integers(len(experience.reward), size=4096))
    shift, scale = sample.mean(dim=(0, 1, 2)), sample.std(dim=(0, 1, 2)) + 1e-3
    weights = initial_weights((sample.shape[-1], *_HIDDEN, 1), seed)
    target = copied(weights)
    optimizer = torch.optim.AdamW(
        [tensor.requires_grad_() for layer in weights for tensor in layer], _RATE
    )
    for step in range(steps):
        rows = rng.integers(len(experience.reward), size=_BATCH)
        x = (_rows(experience, rows) - shift) / scale
        x = x[torch.arange(len(rows)), experience.group[rows], experience.operation[rows]]
        error = forward(weights, x) - _targets(experience, rows, weights, target, shift, scale)
        loss = huber(error)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - step / steps)
        if step % _TARGET_PERIOD == 0:
            target = copied(weights)
            progress(step / steps)
    return Network(_in_units(layers_of(weights), shift.numpy(), scale.numpy()))


def mean_of(networks: Sequence[Network]) -> Network:
    """One network whose output is the mean of those of several of the same form."""
    layers = []
    for depth, same in enumerate(zip(*(network.layers for network in networks), strict=True)):
        weights, biases = zip(*same, strict=True)
        if depth == 0:
            weight = np.concatenate(weights, axis=1)
        elif depth < len(networks[0].layers) - 1:
            weight = block_diag(*weights)
        else:
            weight = np.concatenate(weights) / len(networks)
        last = depth == len(networks[0].layers) - 1
        bias = np.mean(biases, axis=0) if last else np.concatenate(biases)
        layers.append((weight, bias))
    return Network(layers)


def save(network: Network, margin: float, path: Path, about: dict[str, str]) -> None:
    """Write a network, and the gain that going on must be worth."""
    save_network(network, path, about, margin=np.array([margin]))


def _rows(experience: Experience, rows: NDArray[np.integer[Any]], *, after: bool = False) -> Tensor:
    """[B, G, 3, 34] what the network sees of each group and operation."""
    seen = (experience.after if after else experience.observation)[rows]
    first = torch.from_numpy(pairs(seen, experience.groups, OPERATION_FEATURES[0]))
    shown = first[:, :, None].repeat(1, 1, len(OPERATION_FEATURES), 1)
    shown[..., -len(OPERATION_FEATURES) :] = torch.eye(len(OPERATION_FEATURES))
    return shown


def _targets(
    experience: Experience,
    rows: NDArray[np.integer[Any]],
    weights: Sequence[tuple[Tensor, Tensor]],
    target: Sequence[tuple[Tensor, Tensor]],
    shift: Tensor,
    scale: Tensor,
) -> Tensor:
    """[B] reward, and what the next state is worth; to stop is worth 0."""
    x = ((_rows(experience, rows, after=True) - shift) / scale).flatten(1, 2)
    with torch.no_grad():
        selector, value = (
            torch.nn.functional.pad(forward(list(net), x), (0, 1)) for net in (weights, target)
        )
    reward = torch.from_numpy(experience.reward[rows].astype(np.float32)) * _SCALE
    discount = torch.from_numpy(experience.goes_on[rows].astype(np.float32))
    return double_q_target(
        reward, discount, selector, value, torch.ones(selector.shape, dtype=torch.bool)
    )


def _in_units(layers: Layers, shift: Floats, scale: Floats) -> Layers:
    """The same network of features and gains as they are."""
    (weight, bias), *middle, (last, offset) = layers
    inputs = np.asarray(weight / scale[:, None], dtype=np.float32)
    first = np.asarray(bias - (shift / scale) @ weight, dtype=np.float32)
    return [(inputs, first), *middle, (last / np.float32(_SCALE), offset / np.float32(_SCALE))]
