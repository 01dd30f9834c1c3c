"""A small network of ReLU layers in NumPy, and its file.

What `DQN` learns with torch is played with this one, so that playing needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.tensors import read_tensors, write_tensors

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Network:
    """ReLU between layers.

    Attributes:
        layers: Weight [inputs, outputs] and bias [outputs] of each.
    """

    layers: Sequence[tuple[Floats, Floats]]

    @property
    def inputs(self) -> int:
        """The number of inputs; 0 without layers."""
        return len(self.layers[0][0]) if self.layers else 0

    def __call__(self, x: Floats) -> NDArray[np.float64]:
        """The outputs [M, outputs] at x [M, inputs]."""
        h: Floats = x
        for depth, (weight, bias) in enumerate(self.layers):
            h = (np.maximum(h, 0) if depth else h) @ weight + bias
        return np.asarray(h, dtype=np.float64)


def save(network: Network, path: Path, about: Mapping[str, str], **others: Floats) -> None:
    """Write a network and `others` that belong to it by name, in single precision."""
    tensors = dict(others)
    for depth, (weight, bias) in enumerate(network.layers):
        tensors |= {f"{depth}.weight": weight, f"{depth}.bias": bias}
    write_tensors({name: t.astype(np.float32) for name, t in tensors.items()}, path, about)


def load(path: Path) -> tuple[Network, dict[str, NDArray[np.float64]]]:
    """A network and the other tensors of its file.

    Raises:
        InvalidInputError: If the file is none of tensors.
        KeyError: If a layer lacks its weight or its bias.
    """
    tensors = read_tensors(path)
    depth = sum(name.endswith(".weight") for name in tensors)
    layers = [(tensors.pop(f"{d}.weight"), tensors.pop(f"{d}.bias")) for d in range(depth)]
    return Network(layers), tensors
