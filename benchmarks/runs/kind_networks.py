"""Networks of the kinds of runs: with BatchNorm, with dropout, recurrent, transformers.

Each takes inputs [B, d] as `DataSet` has them, already standardised, and returns logits [B, C].
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.recorded.data import DataSet

_DROPPED = 0.5
_UNITS = 32  # of recurrent states and of transformers


class _Shift(nn.Module):
    """Augmentation: while training, all images of a batch move by at most a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] as it came in."""
        if not self.training:
            return x
        down, right = torch.randint(3, (2,)).tolist()
        height, width = x.shape[-2:]
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        return padded[..., down : down + height, right : right + width]


class _Block(nn.Module):
    """Two convolutions with BatchNorm beside a shortcut (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride)
        self.second = _convolution(outputs, outputs, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H / stride, W / stride]."""
        h = self.second(torch.relu(self.first(x)))
        return torch.relu(h + self.shortcut(x))


def _convolution(inputs: int, outputs: int, stride: int, size: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _images(data: DataSet) -> list[nn.Module]:
    assert data.steps is not None
    return [nn.Unflatten(1, (1, data.steps, data.steps)), _Shift()]


def _resnet8(data: DataSet) -> nn.Module:
    """Seven convolutions and a linear layer, as a ResNet-8, of a quarter of its width."""
    return nn.Sequential(
        *_images(data),
        _convolution(1, 8, 1),
        nn.ReLU(),
        _Block(8, 8, 1),
        _Block(8, 16, 2),
        _Block(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, data.n_classes),
    )


def _normed_cnn(data: DataSet) -> nn.Module:
    """Two convolutions, both with BatchNorm."""
    return nn.Sequential(
        *_images(data),
        _convolution(1, 12, 1),
        nn.ReLU(),
        _convolution(12, 24, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 4, data.n_classes),
    )


def _mlp(data: DataSet, *hidden: int, dropped: float = 0.0) -> nn.Module:
    widths = (data.x_train.shape[1], *hidden)
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
        layers += [nn.Dropout(dropped)] if dropped else []
    return nn.Sequential(*layers, nn.Linear(widths[-1], data.n_classes))


class _Recurrent(nn.Module):
    """A GRU or LSTM, and a linear layer on its last output."""

    def __init__(self, cell: type[nn.GRU | nn.LSTM], inputs: int, classes: int) -> None:
        super().__init__()
        self.cell = cell(inputs, _UNITS, batch_first=True)
        self.head = nn.Linear(_UNITS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences [B, T, inputs]."""
        outputs: Tensor = self.cell(x)[0]
        logits: Tensor = self.head(outputs[:, -1])
        return logits


class _Transformer(nn.Module):
    """An encoder of two layers with places learned, and a linear layer on the mean over steps."""

    def __init__(self, steps: int, inputs: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, _UNITS)
        self.places = nn.Parameter(0.02 * torch.randn(steps, _UNITS))
        layer = nn.TransformerEncoderLayer(
            _UNITS, 4, 2 * _UNITS, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(_UNITS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences [B, T, inputs]."""
        logits: Tensor = self.head(self.encoder(self.embed(x) + self.places).mean(dim=1))
        return logits


def _sequence(data: DataSet) -> tuple[int, int]:
    """Steps, and features of a step."""
    assert data.steps is not None
    return data.steps, data.x_train.shape[1] // data.steps


def _recurrent(cell: type[nn.GRU | nn.LSTM]) -> Callable[[DataSet], nn.Module]:
    def make(data: DataSet) -> nn.Module:
        steps, inputs = _sequence(data)
        network = _Recurrent(cell, inputs, data.n_classes)
        return nn.Sequential(nn.Unflatten(1, (steps, inputs)), network)

    return make


def _transformer(data: DataSet) -> nn.Module:
    steps, inputs = _sequence(data)
    network = _Transformer(steps, inputs, data.n_classes)
    return nn.Sequential(nn.Unflatten(1, (steps, inputs)), network)


NETWORKS: dict[str, Callable[[DataSet], nn.Module]] = {
    "resnet8": _resnet8,
    "normed_cnn": _normed_cnn,
    "mlp": lambda data: _mlp(data, 64),
    "deep_mlp": lambda data: _mlp(data, 32, 32),
    "dropout_mlp": lambda data: _mlp(data, 128, 128, dropped=_DROPPED),
    "gru": _recurrent(nn.GRU),
    "lstm": _recurrent(nn.LSTM),
    "transformer": _transformer,
}
"""By name, from a data set."""
