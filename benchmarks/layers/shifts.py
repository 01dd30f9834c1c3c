"""The test: networks trained on digits, and five ways in which digits shift afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn import datasets

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Rows = tuple[Floats, Labels]

LABELS = 50  # of the target, to train on; as many to validate on


@dataclass(frozen=True)
class Target:
    """One task of the test.

    Attributes:
        name: Of the shift.
        train: A few rows.
        validation: As many.
        test: The rest, played on once.
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows


def _permuted(x: Floats, y: Labels, rng: np.random.Generator) -> Rows:
    return x, rng.permutation(10)[y].astype(np.int64)


def _noisy(x: Floats, y: Labels, rng: np.random.Generator) -> Rows:
    return _clipped(x + 0.35 * rng.normal(size=x.shape)), y


def _faded(x: Floats, y: Labels, _: np.random.Generator) -> Rows:
    return 0.2 * x, y


def _blurred(x: Floats, y: Labels, _: np.random.Generator) -> Rows:
    blurred = gaussian_filter(_images(x), (0, 0.7, 0.7)).reshape(x.shape)
    return _clipped(0.5 + 0.4 * (blurred - 0.5)), y


def _inverted(x: Floats, y: Labels, rng: np.random.Generator) -> Rows:
    return _clipped(1 - x + 0.2 * rng.normal(size=x.shape)), y


SHIFTS: Mapping[str, Callable[[Floats, Labels, np.random.Generator], Rows]] = {
    "output permutation": _permuted,
    "noise": _noisy,
    "fade": _faded,
    "contrast + blur": _blurred,
    "invert + noise": _inverted,
}


def rows(data_dir: Path | None) -> Rows:
    """Embedded digits, or a part of MNIST with 14 x 14 pixels where its folder is given."""
    if data_dir is None:
        x, y = datasets.load_digits(return_X_y=True)
        return (x / 16).astype(np.float32), y.astype(np.int64)
    with np.load(data_dir / "mnist.npz", allow_pickle=False) as file:
        chosen = np.random.default_rng(0).permutation(len(file["y_train"]))[:6000]
        images, labels = file["x_train"][chosen], file["y_train"][chosen].astype(np.int64)
    pooled = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255
    return pooled.reshape(len(pooled), -1).astype(np.float32), labels


def network(kind: str, pixels: int) -> torch.nn.Module:
    """An "mlp" of three layers, or a "cnn" of two convolutions and two dense layers."""
    if kind == "mlp":
        return torch.nn.Sequential(
            torch.nn.Linear(pixels, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )
    side = int(pixels**0.5)
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, side, side)),
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * ((side + 1) // 2) ** 2, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 10),
    )


def pretrained(kind: str, source: Rows, seed: int, epochs: int = 20) -> torch.nn.Module:
    """A network trained on the source."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(kind, source[0].shape[1])
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        x, y = (torch.from_numpy(part) for part in source)
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).split(32):
                loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


def targets(data: Rows, seed: int) -> tuple[Rows, list[Target]]:
    """The source rows of a seed, and its five targets, of other rows."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data[1]))
    source, others = order[: len(order) * 4 // 9], order[len(order) * 4 // 9 :]
    parts = np.split(others, [LABELS, 2 * LABELS])
    found = []
    for number, (name, shift) in enumerate(SHIFTS.items()):
        x, y = shift(*data, np.random.default_rng((seed, number)))
        found.append(Target(name, *((x[part].astype(np.float32), y[part]) for part in parts)))
    return (data[0][source], data[1][source]), found


def _images(x: Floats) -> Floats:
    side = int(x.shape[1] ** 0.5)
    return x.reshape(-1, side, side)


def _clipped(x: NDArray[np.floating]) -> Floats:
    return np.clip(x, 0, 1).astype(np.float32)
