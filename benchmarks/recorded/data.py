"""What a data set is, how it is divided and scaled, and those that are not synthetic.

A *family* is the underlying data: `digits` and `digits_parity` ask different questions of the same
images and are one family. Families, not data sets, are divided into train, validation and test.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.feature_extraction import DictVectorizer
from sklearn.model_selection import train_test_split

from benchmarks.recorded.synthetic import Inputs, Labels, N, Problem, binned


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        family: The underlying data.
        make: Returns inputs [N, d] and labels [N]; takes the path of `file` if there is one.
        n_train: Training samples asked for; fewer where the data set is small.
        side: Height and width in pixels of square grey images, None for other data.
        steps: Length of sequences, which divides d, None for other data.
        gain: What scaled inputs are multiplied by, as if the user had not scaled them well.
        file: Name in the user's data folder, None if the data is built in.
        recipes: What is trained on it, as network-optimizer. Networks that cannot learn a problem
            are left out: they make no tuning task.
    """

    family: str
    make: Callable[..., Problem]
    n_train: int = 512
    side: int | None = None
    steps: int | None = None
    gain: float = 1.0
    file: str | None = None
    recipes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """A data set ready for training.

    Attributes:
        x_train: [n, d] float32 in [0, 1].
        y_train: [n] int64 in [0, n_classes).
        x_val: [m, d] float32 in [0, 1]; values outside the training range are clipped.
        y_val: [m] int64.
        shift: [d] what the network subtracts first: the training mean of a column or of whole
            sequences, 0 for images.
        scale: [d] what it then divides by: the training deviation likewise, 1 for images.
        eps: Radius of the FGSM attack on inputs in [0, 1]: .05 for images, else .15 of the mean
            deviation.
        steps: Rows of an image or steps of a sequence, None for tables.
        n_classes: The number of classes.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    eps: float
    steps: int | None
    n_classes: int


_MAX_VALIDATION = 512


def prepare(
    source: Source, data_dir: Path | None = None, most_validation: int = _MAX_VALIDATION
) -> DataSet:
    """Build a data set: stratified division, then scaling to [0, 1] by the training part.

    Small data sets keep two fifths for validation, others `most_validation` rows if they have
    them. The result depends on the arguments alone.

    Raises:
        ValueError: If the source is a file and no folder is given.
    """
    x, y = _raw(source, data_dir)
    labels = np.unique(y, return_inverse=True)[1].astype(np.int64)
    n_train = min(source.n_train, len(y) * 3 // 5)
    n_val = min(most_validation, len(y) - n_train)
    x_train, x_val, y_train, y_val = train_test_split(
        x, labels, train_size=n_train, test_size=n_val, stratify=labels, random_state=0
    )
    steps = source.side or source.steps
    x_train, x_val = _to_unit(x_train, x_val, whole=steps is not None)
    shift, deviation = _moments(source, x_train)
    return DataSet(
        x_train,
        y_train,
        x_val,
        y_val,
        shift,
        scale=deviation / np.float32(source.gain),
        eps=0.05 if source.side else round(0.15 * float(deviation.mean()), 4),
        steps=steps,
        n_classes=int(labels.max()) + 1,
    )


def _moments(
    source: Source, x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and scale [d]: networks get images as they are and the rest standardised, as is usual.

    Sequences are standardised as a whole, so that a feature means the same at every step.
    """
    if source.side is not None:
        return np.zeros(x.shape[1], np.float32), np.ones(x.shape[1], np.float32)
    if source.steps is not None:
        return np.full(x.shape[1], x.mean()), np.full(x.shape[1], x.std())
    return x.mean(axis=0), x.std(axis=0)


def _raw(source: Source, data_dir: Path | None) -> Problem:
    if source.file is None:
        return source.make()
    if data_dir is None:
        raise ValueError(f"`{source.file}` must be in a data folder; give it with --data-dir")
    return source.make(data_dir / source.file)


def _to_unit(
    train: Inputs, val: Inputs, *, whole: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale to [0, 1] by the training range: of each column, or of images and sequences as a whole.

    Constant columns of tables are dropped; constant pixels and steps stay, as they have a place.
    """
    axis = None if whole else 0
    keep = np.ones(train.shape[1], np.bool_) if whole else np.ptp(train, axis=0) > 0
    train, val = train[:, keep], val[:, keep]
    low, high = train.min(axis=axis), train.max(axis=axis)
    scaled = [np.clip((part - low) / (high - low), 0, 1) for part in (train, val)]
    return scaled[0].astype(np.float32), scaled[1].astype(np.float32)


def embedded(loader: str, relabel: Callable[[Labels], Labels] | None = None) -> Problem:
    """A data set of scikit-learn, by the function that loads it."""
    x, y = getattr(datasets, loader)(return_X_y=True)
    return x, relabel(y) if relabel else y


def parity(y: Labels) -> Labels:
    """1 for odd digits."""
    return y % 2


def upper_half(y: Labels) -> Labels:
    """1 for digits from 5."""
    return (y >= 5).astype(np.int64)


def diabetes() -> Problem:
    """Progression of the disease in three classes of equal size."""
    return embedded("load_diabetes", partial(binned, n_classes=3))


def mislabelled(make: Callable[..., Problem], share: float, *args: object) -> Problem:
    """A problem of which a share of the labels, in training and validation, is drawn at random."""
    rng = np.random.default_rng(2)
    x, y = make(*args)
    drawn = rng.choice(y, size=len(y))
    return x, np.where(rng.uniform(size=len(y)) < share, drawn, y)


def photos() -> Problem:
    """Grey 8x8 patches of scikit-learn's two photographs: which photograph, upper or lower half."""
    rng = np.random.default_rng(0)
    patches, labels = [], []
    for which, name in enumerate(("china.jpg", "flower.jpg")):
        grey = datasets.load_sample_image(name).mean(axis=2)
        tops = rng.integers(0, grey.shape[0] - 16, size=N // 2)
        lefts = rng.integers(0, grey.shape[1] - 16, size=N // 2)
        for top, left in zip(tops, lefts, strict=True):
            patch = grey[top : top + 16, left : left + 16].reshape(8, 2, 8, 2).mean(axis=(1, 3))
            patches.append(patch.ravel())
            labels.append(2 * which + int(2 * top > grey.shape[0]))
    return np.array(patches), np.array(labels)


def mnist(path: Path, relabel: Callable[[Labels], Labels] | None = None) -> Problem:
    """`x_train`, `y_train` of a Keras mnist.npz; a random part, averaged to 14x14 pixels."""
    with np.load(path, allow_pickle=False) as file:
        rows = np.random.default_rng(0).permutation(len(file["y_train"]))[:N]
        images, y = file["x_train"][rows], file["y_train"][rows].astype(np.int64)
    pooled = images.reshape(N, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(N, -1)
    return pooled, relabel(y) if relabel else y


def table(path: Path, label: str, drop: tuple[str, ...] = ()) -> Problem:
    """A CSV file, words one-hot encoded; a random part; a blank number is a 0."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(0).permutation(len(rows))[:N]
    y = np.unique([rows[i][label] for i in chosen], return_inverse=True)[1]
    features = [_features(rows[i], {label, *drop}) for i in chosen]
    return DictVectorizer(sparse=False).fit_transform(features), y


def _features(row: Mapping[str, str], drop: set[str]) -> dict[str, float | str]:
    return {key: _number(value) for key, value in row.items() if key not in drop and value != ""}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a category
