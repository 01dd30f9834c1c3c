"""The demo's images: scikit-learn's digits, or a file in the layout of MNIST's npz."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_tune import npz
from rlhf_tune.errors import InvalidInputError, require

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

DIGITS = "digits"
KEYS = ("x_train", "y_train", "x_test", "y_test")

_SPLIT_SEED = 0  # the same held-out images for every seed of the job
_DIGITS_TRAIN = 900
_MAX_TEST = 1000


@dataclass(frozen=True)
class Data:
    """Images [N, H, W, C] within [0, 1] and labels [N], in three disjoint parts.

    Attributes:
        x_train: What networks are trained on.
        y_train: Its labels.
        x_validation: What trials are measured on, also under attack.
        y_validation: Its labels.
        x_test: Held out: touched once, by the final measurement.
        y_test: Its labels.
    """

    x_train: Images
    y_train: Labels
    x_validation: Images
    y_validation: Labels
    x_test: Images
    y_test: Labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """The number of classes, one more than the largest label."""
        return int(max(self.y_train.max(), self.y_validation.max(), self.y_test.max())) + 1


def load(source: str, *, max_train: int) -> Data:
    """The digits, or an npz file.

    Args:
        source: "digits" or the path of an npz file with `x_train`, `y_train`, `x_test` and
            `y_test`; images [N, H, W] or [N, H, W, C], either integers 0..255 or floats 0..1.
        max_train: Larger training sets are cut to this many images.

    Raises:
        InvalidInputError: If the file cannot be read or its arrays break a rule.
        MissingExtraError: If scikit-learn is not installed.
    """
    return _digits(max_train) if source == DIGITS else _from_npz(Path(source), max_train)


def _digits(max_train: int) -> Data:
    x, y = require("sklearn.datasets", extra="demo").load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    (x, y), (x_test, y_test) = _split(x, y.astype(np.int64), 3 * len(x) // 4)
    n = min(max_train, _DIGITS_TRAIN)
    (x_train, y_train), (x_val, y_val) = _split(x, y, _DIGITS_TRAIN)
    return Data(x_train[:n], y_train[:n], x_val, y_val, x_test, y_test)


def _from_npz(path: Path, max_train: int) -> Data:
    if not path.exists():
        raise InvalidInputError(f"`--data` must be a file, but {path} does not exist")
    arrays = npz.read(path, KEYS.__contains__)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise InvalidInputError(
            f"`--data` must be an npz file with the arrays {list(KEYS)}, but {path} lacks {missing}"
        )
    x, y = _checked(path, arrays, "train")
    x_test, y_test = _checked(path, arrays, "test")
    if x.shape[1:] != x_test.shape[1:]:
        raise InvalidInputError(
            f"`x_train` and `x_test` must hold images of one shape, but {path} has "
            f"{x.shape[1:]} and {x_test.shape[1:]}"
        )
    if y_test.max() > y.max():
        raise InvalidInputError(
            f"every label of `y_test` must occur in `y_train`, but {path} has {y_test.max()} "
            f"above {y.max()}"
        )
    n = min(max_train, 4 * len(x) // 5)
    (x_train, y_train), (x_rest, y_rest) = _split(x, y, n)
    (x_test, y_test), _ = _split(x_test, y_test, _MAX_TEST)
    return Data(x_train, y_train, x_rest[:_MAX_TEST], y_rest[:_MAX_TEST], x_test, y_test)


def _checked(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], part: str
) -> tuple[Images, Labels]:
    """Images [N, H, W, C] within [0, 1] and labels [N] of one part of the file."""
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or min(x.shape[1:3]) < 4 or x.dtype.kind not in "uif":
        raise InvalidInputError(
            f"`x_{part}` must hold images [N, H, W] or [N, H, W, C] of at least 4 x 4 pixels, "
            f"but {path} has {x.dtype} {arrays[f'x_{part}'].shape}"
        )
    if y.shape != x.shape[:1] or y.dtype.kind not in "ui":
        raise InvalidInputError(
            f"`y_{part}` must hold one integer label for each of the {len(x)} images, but "
            f"{path} has {y.dtype} {y.shape}"
        )
    if len(x) < 20:
        raise InvalidInputError(f"`x_{part}` must hold at least 20 images, but has {len(x)}")
    if y.min() < 0 or y.max() > 999:
        raise InvalidInputError(
            f"labels must be within 0..999, but `y_{part}` spans {y.min()}..{y.max()}"
        )
    return _scaled(x, part), y.astype(np.int64)


def _scaled(x: NDArray[np.generic], part: str) -> Images:
    top = 1 if x.dtype.kind == "f" else 255
    if not (x.min() >= 0 and x.max() <= top):  # also where a NaN makes both false
        raise InvalidInputError(
            f"pixels must be integers within 0..255 or floats within 0..1, but `x_{part}` is "
            f"{x.dtype} and spans {x.min()}..{x.max()}"
        )
    return np.asarray(x, dtype=np.float32) / np.float32(top)


def _split(x: Images, y: Labels, n: int) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """`n` random samples, and the rest; the same ones every time."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
    return (x[order[:n]], y[order[:n]]), (x[order[n:]], y[order[n:]])
