"""Source tasks: a network that was trained on a data set, and a few labels of one that shifted.

Families of data sets and kinds of shift are both divided: those that taught the policy never
choose, and neither has digits, MNIST, or a shift of the test (output permutation, noise, fade,
contrast with blur, inversion with noise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded.data import DataSet, prepare
from benchmarks.recorded.sources import SOURCES

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

TEST_FAMILIES = ("digits", "mnist")
VALIDATION_FAMILIES = (
    "photos",
    "glyphs",
    "bars",
    "teacher",
    "waveform",
    "tones",
    "markov",
    "topics",
    "ellipsoids",
    "breast_cancer",
    "arm",
)
TRAIN_KINDS = ("rotation", "occlusion", "new classes", "merged labels", "scale", "none")
VALIDATION_KINDS = ("translation", "offset", "fewer classes")

_TABLES = ("mlp32x32", "mlp32x32x32", "norm32x32")
_ROWS = 500  # at least


@dataclass(frozen=True)
class Task:
    """One target: inputs as the network sees them, and labels.

    Attributes:
        name: Of data set, kind and network.
        network: Of `benchmarks.recorded.networks`.
        source: Inputs and labels to train it on.
        train: A few rows of the target.
        validation: A few more.
        held_out: The rest of the target, which no policy sees.
        n_classes: Outputs.
        steps: Rows of an image or steps of a sequence.
    """

    name: str
    network: str
    source: tuple[Floats, Labels]
    train: tuple[Floats, Labels]
    validation: tuple[Floats, Labels]
    held_out: tuple[Floats, Labels]
    n_classes: int
    steps: int | None


def names(split: str) -> list[str]:
    """The data sets of a split, "train" or "validation"."""
    kept = [
        name
        for name, source in SOURCES.items()
        if source.file is None and source.family not in TEST_FAMILIES
    ]
    validation = split == "validation"
    return [n for n in kept if (SOURCES[n].family in VALIDATION_FAMILIES) is validation]


@cache
def _data(name: str) -> DataSet | None:
    """A data set, or None where it is too small."""
    found = prepare(replace(SOURCES[name], n_train=600), most_validation=1200)
    return found if len(found.y_train) + len(found.y_val) >= _ROWS else None


def draw(split: str, seed: int) -> Task | None:
    """A task of a split; None where the draw makes none."""
    rng = np.random.default_rng((seed, split == "validation"))
    name = str(rng.choice(names(split)))
    kind = str(rng.choice(VALIDATION_KINDS if split == "validation" else TRAIN_KINDS))
    data = _data(name)
    if data is None:
        return None
    side = SOURCES[name].side
    networks = (*_TABLES, "cnn2") if side else _TABLES
    network = str(rng.choice([*networks, "transformer"] if data.steps else networks))
    source, target = _shifted(data, kind, side, rng)
    if source is None:
        return None
    n_train, n_val = (int(np.exp(rng.uniform(np.log(25), np.log(100)))) for _ in range(2))
    rows = rng.permutation(len(target[1]))
    if len(rows) < n_train + n_val + 150:
        return None
    parts = np.split(rows, [n_train, n_train + n_val])
    return Task(
        f"{name}-{kind}-{network}",
        network,
        source,
        *((target[0][part], target[1][part]) for part in parts),
        n_classes=data.n_classes,
        steps=data.steps,
    )


def _shifted(
    data: DataSet, kind: str, side: int | None, rng: np.random.Generator
) -> tuple[tuple[Floats, Labels] | None, tuple[Floats, Labels]]:
    """Source and target, as the network sees them."""
    x, y = data.x_val, data.y_val
    source = data.x_train, data.y_train
    classes = rng.permutation(data.n_classes)
    if kind == "new classes":
        if data.n_classes < 3:
            return None, source
        known = classes[: max(2, data.n_classes // 2)]
        kept = np.isin(source[1], known)
        source = source[0][kept], source[1][kept]
    elif kind == "fewer classes":
        if data.n_classes < 3:
            return None, source
        kept = np.isin(y, classes[: max(2, data.n_classes // 2)])
        x, y = x[kept], y[kept]
    elif kind == "merged labels":
        if data.n_classes < 3:
            return None, source
        y = (y // 2).astype(np.int64)
    else:
        x = _INPUT_SHIFTS[kind](x, side, rng)
    seen = [((part - data.shift) / data.scale).astype(np.float32) for part in (source[0], x)]
    return (seen[0], source[1]), (seen[1], y)


def _rotation(x: Floats, side: int | None, rng: np.random.Generator) -> Floats:
    """A quarter of a turn of an image; of a table, turns within some planes."""
    if side:
        turns = int(rng.integers(1, 4))
        return np.rot90(x.reshape(-1, side, side), turns, axes=(1, 2)).reshape(len(x), -1).copy()
    centre, out = x.mean(axis=0), x - x.mean(axis=0)
    for _ in range(int(rng.integers(1, x.shape[1]))):
        a, b = rng.choice(x.shape[1], 2, replace=False)
        angle = rng.uniform(0.3, np.pi)
        turned = np.cos(angle) * out[:, a] - np.sin(angle) * out[:, b]
        out[:, b] = np.sin(angle) * out[:, a] + np.cos(angle) * out[:, b]
        out[:, a] = turned
    return (out + centre).astype(np.float32)


def _occlusion(x: Floats, side: int | None, rng: np.random.Generator) -> Floats:
    """A block of an image, or some columns, are 0."""
    out = x.copy()
    if side:
        size = int(rng.integers(side // 3, side * 2 // 3 + 1))
        top, left = rng.integers(0, side - size + 1, size=2)
        out.reshape(-1, side, side)[:, top : top + size, left : left + size] = 0
        return out
    hidden = rng.random(x.shape[1]) < rng.uniform(0.2, 0.6)
    out[:, hidden] = 0
    return out


def _scale(x: Floats, side: int | None, rng: np.random.Generator) -> Floats:
    """Each column by a factor of its own; columns of an image change gradually."""
    spread = rng.uniform(0.3, 1.0)
    factors = np.exp(spread * rng.normal(size=side or x.shape[1]))
    return (x * (np.tile(factors, side) if side else factors)).astype(np.float32)


def _translation(x: Floats, side: int | None, rng: np.random.Generator) -> Floats:
    """The image moves by a pixel or two; the columns of a table or sequence move on by some."""
    by = int(rng.integers(1, 3))
    if side:
        return np.roll(x.reshape(-1, side, side), by, axis=2).reshape(len(x), -1)
    return np.roll(x, by, axis=1)


def _offset(x: Floats, side: int | None, rng: np.random.Generator) -> Floats:
    """A constant is added to each column."""
    size = 1 if side else x.shape[1]
    return (x + rng.uniform(-0.6, 0.6, size=size)).astype(np.float32)


def _none(x: Floats, _: int | None, __: np.random.Generator) -> Floats:
    """Nothing has shifted."""
    return x


_INPUT_SHIFTS: Mapping[str, Callable[[Floats, int | None, np.random.Generator], Floats]] = {
    "rotation": _rotation,
    "occlusion": _occlusion,
    "scale": _scale,
    "translation": _translation,
    "offset": _offset,
    "none": _none,
}
