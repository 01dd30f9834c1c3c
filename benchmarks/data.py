"""The data sets that tuning tasks are recorded on: embedded in scikit-learn, synthetic, or files.

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

from benchmarks import synthetic as syn
from benchmarks.synthetic import Inputs, Labels, N, Problem

_DEEP = ("mlp64-sgd", "mlp64-adam", "mlp64-adamw", "mlp32x32-adam", "mlp32x32x32-adamw")
_ANY = ("linear-sgd", "linear-adam", *_DEEP)
_CNN = ("cnn-sgd", "cnn-adam", "cnn-adamw")
_IMAGE = (*_ANY, *_CNN)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        family: The underlying data.
        make: Returns inputs [N, d] and labels [N]; takes the path of `file` if there is one.
        n_train: Training samples asked for; fewer where the data set is small.
        side: Height and width in pixels of square grey images, None for tables.
        file: Name in the user's data folder, None if the data is built in.
        recipes: What is trained on it, as network-optimizer. Networks that cannot learn a problem
            are left out: they make no tuning task.
    """

    family: str
    make: Callable[..., Problem]
    n_train: int = 512
    side: int | None = None
    file: str | None = None
    recipes: tuple[str, ...] = _ANY


@dataclass(frozen=True)
class DataSet:
    """A data set ready for training.

    Attributes:
        x_train: [n, d] float32 in [0, 1].
        y_train: [n] int64 in [0, n_classes).
        x_val: [m, d] float32 in [0, 1]; values outside the training range are clipped.
        y_val: [m] int64.
        shift: [d] what the network subtracts first: the training mean, 0 for images.
        scale: [d] what it then divides by: the training deviation, 1 for images.
        eps: Radius of the FGSM attack on inputs in [0, 1]: .05 for images, for tables .15 of the
            mean deviation of a column.
        side: Height and width of square images, None for tables.
        n_classes: The number of classes.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    eps: float
    side: int | None
    n_classes: int


_MAX_VALIDATION = 512


def prepare(source: Source, data_dir: Path | None = None) -> DataSet:
    """Build a data set: stratified division, then scaling to [0, 1] by the training part.

    Small data sets keep two fifths for validation. The result depends on the source alone.

    Raises:
        ValueError: If the source is a file and no folder is given.
    """
    x, y = _raw(source, data_dir)
    labels = np.unique(y, return_inverse=True)[1].astype(np.int64)
    n_train = min(source.n_train, len(y) * 3 // 5)
    n_val = min(_MAX_VALIDATION, len(y) - n_train)
    x_train, x_val, y_train, y_val = train_test_split(
        x, labels, train_size=n_train, test_size=n_val, stratify=labels, random_state=0
    )
    x_train, x_val = _to_unit(x_train, x_val, image=source.side is not None)
    dims = x_train.shape[1]
    deviation = x_train.std(axis=0)
    return DataSet(
        x_train,
        y_train,
        x_val,
        y_val,
        # Networks get images as they are and columns of tables standardised, as users do it.
        shift=np.zeros(dims, np.float32) if source.side else x_train.mean(axis=0),
        scale=np.ones(dims, np.float32) if source.side else deviation,
        eps=0.05 if source.side else round(0.15 * float(deviation.mean()), 4),
        side=source.side,
        n_classes=int(labels.max()) + 1,
    )


def _raw(source: Source, data_dir: Path | None) -> Problem:
    if source.file is None:
        return source.make()
    if data_dir is None:
        raise ValueError(f"`{source.file}` must be in a data folder; give it with --data-dir")
    return source.make(data_dir / source.file)


def _to_unit(
    train: Inputs, val: Inputs, *, image: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale to [0, 1] by the training range: of each column, or of all pixels of images.

    Constant columns of tables are dropped; constant pixels stay, as they have a place.
    """
    axis = None if image else 0
    keep = np.ones(train.shape[1], np.bool_) if image else np.ptp(train, axis=0) > 0
    train, val = train[:, keep], val[:, keep]
    low, high = train.min(axis=axis), train.max(axis=axis)
    scaled = [np.clip((part - low) / (high - low), 0, 1) for part in (train, val)]
    return scaled[0].astype(np.float32), scaled[1].astype(np.float32)


def _embedded(loader: str, relabel: Callable[[Labels], Labels] | None = None) -> Problem:
    x, y = getattr(datasets, loader)(return_X_y=True)
    return x, relabel(y) if relabel else y


def _even(y: Labels) -> Labels:
    return y % 2


def _upper_half(y: Labels) -> Labels:
    return (y >= 5).astype(np.int64)


def _diabetes() -> Problem:
    return _embedded("load_diabetes", partial(syn.binned, n_classes=3))


def _photos() -> Problem:
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


def _mnist(path: Path, relabel: Callable[[Labels], Labels] | None = None) -> Problem:
    """`x_train`, `y_train` of a Keras mnist.npz; a random part, averaged to 14x14 pixels."""
    with np.load(path, allow_pickle=False) as file:
        rows = np.random.default_rng(0).permutation(len(file["y_train"]))[:N]
        images, y = file["x_train"][rows], file["y_train"][rows].astype(np.int64)
    pooled = images.reshape(N, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(N, -1)
    return pooled, relabel(y) if relabel else y


def _table(path: Path, label: str, drop: tuple[str, ...] = ()) -> Problem:
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


def _made(
    family: str,
    make: Callable[..., Problem],
    *args: object,
    n_train: int = 512,
    side: int | None = None,
    recipes: tuple[str, ...] = _ANY,
    **options: object,
) -> Source:
    """A synthetic source; `args`, `options` and the side of images are the generator's."""
    if side is not None:
        options["side"] = side
    return Source(family, partial(make, *args, **options), n_train, side, recipes=recipes)


_classification = partial(_made, "classification", syn.from_sklearn, "make_classification")
_mnist_source = partial(Source, "mnist", n_train=1024, side=14, file="mnist.npz")
_digits_source = partial(Source, "digits", side=8, recipes=_IMAGE)
_MOTIFS = ((0, 1, 2), (2, 1, 0), (3, 3, 1))

SOURCES: Mapping[str, Source] = {
    # Synthetic
    "classification_easy": _classification(class_sep=2.0),
    "classification_noisy": _classification(flip_y=0.3, n_informative=5),
    "classification_wide": _classification(n_features=100, n_informative=10, n_train=256),
    "classification_many": _classification(
        n_features=30, n_informative=20, n_redundant=5, n_classes=10, n_train=1024
    ),
    "classification_clusters": _classification(
        n_informative=8, n_classes=4, n_clusters_per_class=4, class_sep=1.5
    ),
    "classification_rare": _classification(weights=[0.9], n_informative=6, flip_y=0.05),
    "moons": _made("moons", syn.lifted_from_sklearn, "make_moons", 10, 0.15),
    "moons_noisy": _made("moons", syn.lifted_from_sklearn, "make_moons", 40, 0.3, n_train=1024),
    "circles": _made(
        "circles", syn.lifted_from_sklearn, "make_circles", 10, 0.1, factor=0.5, recipes=_DEEP
    ),
    "quantiles": _made(
        "quantiles",
        syn.from_sklearn,
        "make_gaussian_quantiles",
        n_features=8,
        n_classes=3,
        recipes=_DEEP,
    ),
    "quantiles_two": _made(
        "quantiles",
        syn.from_sklearn,
        "make_gaussian_quantiles",
        n_features=4,
        n_classes=2,
        recipes=_DEEP,
    ),
    "hastie": _made("hastie", syn.hastie, n_train=1024, recipes=_DEEP),
    "blobs": _made(
        "blobs", syn.from_sklearn, "make_blobs", n_features=10, centers=8, cluster_std=4.0
    ),
    "blobs_wide": _made(
        "blobs",
        syn.from_sklearn,
        "make_blobs",
        n_features=60,
        centers=5,
        cluster_std=14.0,
        n_train=256,
    ),
    "friedman": _made("friedman", syn.regression, "make_friedman1", 4, noise=1.0),
    "friedman_rational": _made("friedman", syn.regression, "make_friedman3", 3, noise=0.1),
    "linear_target": _made(
        "linear_target",
        syn.regression,
        "make_regression",
        5,
        n_features=25,
        noise=30.0,
        n_train=256,
    ),
    "swiss_roll": _made("swiss_roll", syn.regression, "make_swiss_roll", 6, noise=0.3),
    "teacher": _made("teacher", syn.teacher, dims=16, hidden=8, n_classes=3),
    "teacher_wide": _made("teacher", syn.teacher, dims=64, hidden=32, n_classes=6, n_train=1024),
    "fourier_slow": _made("fourier", syn.fourier, dims=6, frequency=0.3),
    "fourier_fast": _made(
        "fourier", syn.fourier, dims=3, frequency=1.0, n_train=1024, recipes=_DEEP
    ),
    "parity_two": _made("parity", syn.parity, bits=2, dims=12, recipes=_DEEP),
    "parity_three": _made("parity", syn.parity, bits=3, dims=10, n_train=1024, recipes=_DEEP),
    "checkerboard": _made(
        "checkerboard", syn.checkerboard, cells=3, dims=6, n_train=1024, recipes=_DEEP
    ),
    "waveform": _made("waveform", syn.waveform),
    "led": _made("led", syn.led, flip=0.1, irrelevant=10),
    "xor_clouds": _made("xor_clouds", syn.xor_clouds, dims=8, spread=0.4, recipes=_DEEP),
    "heavy_tails": _made("heavy_tails", syn.heavy_tails, dims=20, n_classes=3),
    "sparse_rule": _made("sparse_rule", syn.sparse_rule, dims=150, relevant=5),
    "shapes": _made("shapes", syn.shapes, side=9, noise=0.1, n_train=1024, recipes=_CNN),
    "textures": _made(
        "textures", syn.textures, side=10, widths=(0.3, 0.8, 1.6), n_train=1024, recipes=_CNN
    ),
    "spirals": _made(
        "spirals", syn.spirals, arms=2, turns=0.9, dims=5, n_train=1024, recipes=_DEEP
    ),
    "tree": _made("tree", syn.tree, depth=4, dims=10, n_classes=3),
    "motif": _made("motif", syn.motif, length=10, symbols=4, motifs=_MOTIFS),
    "gratings": _made(
        "gratings", syn.gratings, side=8, noise=0.3, n_train=1024, recipes=(*_DEEP, *_CNN)
    ),
    # Embedded in scikit-learn
    "photos": Source("photos", _photos, side=8, recipes=_IMAGE),
    "wine": Source("wine", partial(_embedded, "load_wine")),
    "iris": Source("iris", partial(_embedded, "load_iris")),
    "diabetes": Source("diabetes", _diabetes),
    "breast_cancer": Source("breast_cancer", partial(_embedded, "load_breast_cancer")),
    "digits": _digits_source(partial(_embedded, "load_digits"), n_train=1024),
    "digits_even": _digits_source(partial(_embedded, "load_digits", _even)),
    "digits_upper": _digits_source(partial(_embedded, "load_digits", _upper_half)),
    # In files of the user's
    "german_credit": Source(
        "german_credit", partial(_table, label="class-label"), file="german_credit.csv"
    ),
    "loanapp": Source(
        "loanapp",
        # `action` and `reject` encode the outcome, `rownames` numbers the rows.
        partial(_table, label="approve", drop=("action", "reject", "rownames")),
        file="loanapp.csv",
    ),
    "adult": Source(
        "adult", partial(_table, label="income-per-year"), n_train=1024, file="adult.csv.gz"
    ),
    "mnist": _mnist_source(_mnist, recipes=_IMAGE),
    "mnist_even": _mnist_source(partial(_mnist, relabel=_even), recipes=_ANY),
}
