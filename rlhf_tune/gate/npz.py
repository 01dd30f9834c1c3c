"""The samples that a gate measures on, from an npz file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import digest
from rlhf_tune.safety.samples import check_bounds, check_samples

GROUPS = "groups"  # the array of an npz file that is taken for groups without being named


@dataclass(frozen=True)
class Samples:
    """Inputs, labels and groups.

    Attributes:
        x: Inputs [N, ...].
        y: True labels [N].
        groups: By name, the group of each sample [N].
        origin: What a report says of them: file, hashes, counts.
        arrays: Further arrays that a requirement asked for, by name, each [N, ...].
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    groups: Mapping[str, NDArray[Any]]
    origin: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def load(
    path: str | os.PathLike[str],
    *,
    bounds: tuple[float, float],
    groups: Sequence[str] | None = None,
    arrays: Sequence[str] = (),
    at_most: int | None = None,
    seed: int = 0,
) -> Samples:
    """The arrays ``x``, ``y`` and groups of an npz file, checked.

    Args:
        path: The file.
        bounds: The range that `x` must keep.
        groups: Names of arrays of groups; by default ``groups``, if the file has it.
        arrays: Names of further arrays, one entry a sample.
        at_most: Keep a random choice of this many samples, in their order.
        seed: Of that choice.

    Raises:
        InvalidInputError: If the file cannot be read, or an array breaks its rule.
    """
    content = _content(path)
    stored = _arrays(path, content)
    names = [name for name in (GROUPS,) if name in stored] if groups is None else list(groups)
    missing = {"x", "y", *names, *arrays} - stored.keys()
    if missing:
        raise InvalidInputError(
            f"{Path(path).name!r} must hold the arrays {sorted(missing)}, "
            f"but holds {sorted(stored)}"
        )
    x, y = check_samples(stored["x"], stored["y"])
    check_bounds(x, bounds)
    found = {name: _group(name, stored[name], len(x)) for name in names}
    further = {name: _further(name, stored[name], len(x)) for name in arrays}
    origin = {
        "name": Path(path).name,
        "sha256": digest.of_bytes(content),
        "digest": digest.of_arrays({"x": x, "y": y, **further, **found}),
        "of": len(x),
    }
    rows = _choice(len(x), at_most, seed)
    return Samples(
        x[rows],
        y[rows],
        {name: labels[rows] for name, labels in found.items()},
        {**origin, "n": len(rows)},
        {name: values[rows] for name, values in further.items()},
    )


def check_distinct(members: Samples, holdout: Samples) -> None:
    """Raise `InvalidInputError` if both are one file: nothing could leak between them."""
    if members.origin["sha256"] == holdout.origin["sha256"]:
        raise InvalidInputError(
            "`members` must be samples of the training set and `data` others, but both are one file"
        )


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise InvalidInputError(f"the data {os.fspath(path)!r} cannot be read: {why}") from exc


def _arrays(path: str | os.PathLike[str], content: bytes) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as exc:
        raise InvalidInputError(
            f"{Path(path).name!r} must be an npz file of plain arrays (numpy.savez), but: {exc}"
        ) from exc


def _group(name: str, labels: NDArray[Any], n: int) -> NDArray[Any]:
    if labels.shape != (n,) or labels.dtype.kind not in "biuUS":
        raise InvalidInputError(
            f"`{name}` must hold one integer or text for each of the {n} samples, "
            f"but got {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(str)


def _further(name: str, values: NDArray[Any], n: int) -> NDArray[Any]:
    if values.ndim == 0 or len(values) != n:
        raise InvalidInputError(
            f"`{name}` must hold one entry for each of the {n} samples, "
            f"but got the shape {values.shape}"
        )
    return values


def _choice(n: int, at_most: int | None, seed: int) -> NDArray[np.intp]:
    if at_most is None or at_most >= n:
        return np.arange(n)
    chosen = np.random.default_rng(seed).choice(n, at_most, replace=False)
    return np.sort(chosen)
