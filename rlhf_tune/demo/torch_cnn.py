"""The demo's network in PyTorch: the functions of `rlhf_tune.demo.job.Network`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import optional

with optional("torch", extra="torch"):
    import torch
    from safetensors.torch import save_file
    from torch import nn

from rlhf_tune import files


class ChannelsFirst(nn.Module):
    """Images [B, H, W, C] as PyTorch convolves them, [B, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same images, channels first."""
        return x.movedim(-1, 1)


def build(shape: tuple[int, int, int], classes: int, seed: int) -> nn.Sequential:
    """A small convolutional network from images [B, *shape] to logits [B, classes]."""
    height, width, channels = shape
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(
            ChannelsFirst(),
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * -(-height // 4) * -(-width // 4), 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


def train(
    model: nn.Sequential,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int], None],
) -> None:
    """Train by Adam on images [N, H, W, C] and labels [N]; `on_epoch` gets the epochs done."""
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    shuffle = torch.Generator().manual_seed(seed)
    model.train()
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(len(labels), generator=shuffle), batch_size):
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        on_epoch(epoch + 1)
    model.eval()


@torch.no_grad()
def logits(model: nn.Sequential, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits [N, classes] of images [N, H, W, C]."""
    parts = [model(part) for part in torch.split(torch.from_numpy(x), 1024)]
    return np.asarray(torch.cat(parts).double().numpy())


def save(model: nn.Sequential, path: Path) -> None:
    """Write the weights as safetensors."""
    with files.whole(path) as partial:
        save_file(model.state_dict(), partial)
