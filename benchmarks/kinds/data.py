"""Small data sets, each made in milliseconds and the same at every call.

The names before a colon are families: what is made by one generator, or is part of one recorded
set, belongs together. `split.json` says whose split a family is in, over all kinds.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float64]
Split = Literal["validation", "test"]
Sample = tuple[NDArray[Any], NDArray[Any]]

SPLITS: dict[Split, list[str]] = json.loads(Path(__file__).with_name("split.json").read_text())
_SAMPLES = 800
_NOISE = 0.15
"""The share of labels of generated classes that are drawn anew: else networks find no limit."""


@dataclass(frozen=True)
class Data:
    """A data set, standardised by its training part.

    Attributes:
        x_train: [n, d], of sequences [n, T, d]; 3/5 of the samples.
        y_train: [n] class labels, or standardised targets.
        x_val: [m, ...] as `x_train`.
        y_val: [m] as `y_train`.
        outputs: The number of classes; 1 in regression.
        chance: What a constant prediction costs on the validation part: the cross-entropy of the
            training part's frequencies, or the mean square about its mean.
    """

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    outputs: int
    chance: float

    @property
    def inputs(self) -> int:
        """The features of a sample, or of a step."""
        return int(self.x_train.shape[-1])

    @property
    def group(self) -> Tensor:
        """[m] whether a validation sample is of the second group: its first feature is large."""
        first = self.x_val.reshape(len(self.x_val), -1)[:, 0]
        return first > first.median()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """[S, B] cross-entropy or squared error of S copies' outputs [S, B, C] for targets [S, B]."""
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] - targets).square()
    flat = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view_as(targets)


@lru_cache(maxsize=64)
def load(name: str) -> Data:
    """A data set by name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x, y = _MAKERS[name](rng)
    classes = len(np.unique(y)) if y.dtype.kind == "i" else 1
    order = rng.permutation(len(y))
    cut = len(y) * 3 // 5
    train, val = order[:cut], order[cut:]
    axes = tuple(range(x.ndim - 1))
    x = ((x - x[train].mean(axis=axes)) / _spread(x[train].std(axis=axes))).astype(np.float32)
    if classes == 1:
        y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
    parts = (torch.from_numpy(a[rows]) for rows in (train, val) for a in (x, y))
    x_train, y_train, x_val, y_val = parts
    return Data(x_train, y_train, x_val, y_val, classes, _chance(y_train, y_val, classes))


def _spread(deviation: Floats) -> Floats:
    """What features are divided by: if constant in training, by about 1."""
    return np.where(deviation > 1e-6, deviation, 1.0) + 1e-3


def family(name: str) -> str:
    """The family that a data set belongs to."""
    return name.partition(":")[0]


def _chance(train: Tensor, val: Tensor, classes: int) -> float:
    if classes == 1:
        return float(val.square().mean())
    shares = torch.bincount(train, minlength=classes).double() / len(train)
    return float(-shares.log()[val].mean())


def _embedded(load: Callable[..., Sample], *classes: int) -> Callable[..., Sample]:
    """A set that comes with scikit-learn, or only some of its classes, numbered anew."""

    def make(rng: np.random.Generator) -> Sample:
        x, y = load(return_X_y=True)
        kept = np.isin(y, classes) if classes else np.ones(len(y), dtype=np.bool_)
        x, y = x[kept], y[kept]
        if classes:
            y = np.searchsorted(np.sort(classes), y)
        rows = rng.permutation(len(y))[:_SAMPLES]
        return x[rows], y[rows].astype(np.int64 if load is not datasets.load_diabetes else float)

    return make


def _classes(
    make: Callable[..., Sample], samples: int = _SAMPLES, /, **options: Any
) -> Callable[..., Sample]:
    """A generator of classes, with some labels drawn anew."""

    def made(rng: np.random.Generator) -> Sample:
        x, y = make(n_samples=samples, random_state=int(rng.integers(2**31)), **options)
        y = np.unique(y, return_inverse=True)[1].astype(np.int64)
        other = rng.random(len(y)) < _NOISE
        return x, np.where(other, rng.integers(y.max() + 1, size=len(y)), y)

    return made


def _numbers(
    make: Callable[..., Sample], samples: int = _SAMPLES, /, **options: Any
) -> Callable[..., Sample]:
    """A generator of numbers to predict, with noise of a fifth of their deviation."""

    def made(rng: np.random.Generator) -> Sample:
        x, y = make(n_samples=samples, random_state=int(rng.integers(2**31)), **options)
        return x, y + 0.2 * y.std() * rng.normal(size=len(y))

    return made


def _low_rank(n_samples: int, random_state: int, rank: int) -> Sample:
    """One column of a matrix of low rank from the others."""
    matrix = datasets.make_low_rank_matrix(
        n_samples, 21, effective_rank=rank, random_state=random_state
    )
    return matrix[:, 1:], np.tanh(matrix[:, 0] / matrix[:, 0].std())


def _tokens(rule: Callable[[NDArray[np.int64]], NDArray[Any]], steps: int, kinds: int = 2) -> Any:
    """Sequences of tokens, one-hot, labelled by a rule on tokens [n, T]."""

    def made(rng: np.random.Generator) -> Sample:
        tokens = rng.integers(kinds, size=(_SAMPLES, steps))
        return np.eye(kinds)[tokens], rule(tokens).astype(np.int64)

    return made


def _majority(kinds: int) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
    return lambda tokens: np.array([np.bincount(row, minlength=kinds).argmax() for row in tokens])


def _adding(steps: int) -> Callable[..., Sample]:
    """The sum of the two numbers that are marked."""

    def made(rng: np.random.Generator) -> Sample:
        values, marks = rng.random((_SAMPLES, steps)), np.zeros((_SAMPLES, steps))
        places = rng.random((_SAMPLES, steps)).argsort(axis=1)[:, :2]
        np.put_along_axis(marks, places, 1.0, axis=1)
        return np.stack([values, marks], axis=2), (values * marks).sum(axis=1)

    return made


def _sine(steps: int) -> Callable[..., Sample]:
    """The next value of a noisy sine of any frequency and phase."""

    def made(rng: np.random.Generator) -> Sample:
        frequency = rng.uniform(0.3, 1.5, size=(_SAMPLES, 1))
        phase = rng.uniform(0, 2 * math.pi, size=(_SAMPLES, 1))
        wave = np.sin(frequency * np.arange(steps + 1) + phase)
        noisy = wave + 0.1 * rng.normal(size=wave.shape)
        return noisy[:, :-1, None], noisy[:, -1]

    return made


_MAKERS: dict[str, Callable[[np.random.Generator], Sample]] = {
    "wine": _embedded(datasets.load_wine),
    "iris": _embedded(datasets.load_iris),
    "moons": _classes(datasets.make_moons, noise=0.2),
    "classification": _classes(datasets.make_classification, n_informative=6, n_classes=3),
    "classification:wide": _classes(
        datasets.make_classification, n_features=40, n_informative=10, n_classes=5
    ),
    "quantiles": _classes(datasets.make_gaussian_quantiles, n_features=5, n_classes=3),
    "friedman:1": _numbers(datasets.make_friedman1),
    "friedman:2": _numbers(datasets.make_friedman2),
    "friedman:3": _numbers(datasets.make_friedman3),
    "sparse": _numbers(datasets.make_sparse_uncorrelated, 300),
    "majority": _tokens(_majority(3), 7, 3),
    "majority:long": _tokens(_majority(2), 11, 2),
    "adding": _adding(6),
    "adding:long": _adding(9),
    "digits": _embedded(datasets.load_digits),
    "digits:low": _embedded(datasets.load_digits, 0, 1, 2, 3, 4),
    "digits:high": _embedded(datasets.load_digits, 5, 6, 7, 8, 9),
    "breast_cancer": _embedded(datasets.load_breast_cancer),
    "diabetes": _embedded(datasets.load_diabetes),
    "circles": _classes(datasets.make_circles, noise=0.15, factor=0.5),
    "hastie": _classes(datasets.make_hastie_10_2),
    "s_curve": _numbers(datasets.make_s_curve, noise=0.1),
    "low_rank": _numbers(_low_rank, rank=3),
    "parity": _tokens(lambda tokens: tokens.sum(axis=1) % 2, 4),
    "sine": _sine(8),
    "sine:short": _sine(5),
    "recall": _tokens(lambda tokens: tokens[:, 0], 6, 4),
}
