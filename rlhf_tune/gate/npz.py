"""The samples that a gate measures on, from an npz file, or from npy files of inputs and labels."""

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
from rlhf_tune.npz import check_size
from rlhf_tune.safety.samples import check_bounds, check_samples, distinct_rows

GROUPS = "groups"  # the array of an npz file that is taken for groups without being named

_NONE = {"", "nan", "none", "nat", "<na>"}  # what a missing group becomes as a text


@dataclass(frozen=True)
class Samples:
    """Inputs, labels and groups; samples that repeat others exactly are left out.

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
    labels: str | os.PathLike[str] | None = None,
    *,
    bounds: tuple[Any, Any],
    groups: Sequence[str] | None = None,
    arrays: Sequence[str] = (),
    at_most: int | None = None,
    seed: int = 0,
) -> Samples:
    """The arrays ``x``, ``y`` and groups of an npz file, checked, each sample once.

    Args:
        path: The npz file; or an npy file of ``x``, beside one of ``y``.
        labels: The npy file of ``y``.
        bounds: The range that `x` must keep, numbers or by feature.
        groups: Names of arrays of groups; by default ``groups``, if the file has it.
        arrays: Names of further arrays, one entry a sample.
        at_most: Keep a random choice of this many samples, in their order.
        seed: Of that choice.

    Raises:
        InvalidInputError: If a file cannot be read, or an array breaks its rule.
    """
    stored, origin = _stored(Path(path), None if labels is None else Path(labels))
    names = [name for name in (GROUPS,) if name in stored] if groups is None else list(groups)
    missing = {"x", "y", *names, *arrays} - stored.keys()
    if missing:
        raise InvalidInputError(
            f"{Path(path).name!r} must hold the arrays {sorted(missing)}, "
            f"but holds {sorted(stored)}"
        )
    x, y = check_samples(_array(stored, "x", path), _array(stored, "y", labels or path))
    check_bounds(x, bounds)
    found = {name: _group(name, _array(stored, name, path), len(x)) for name in names}
    further = {name: _further(name, _array(stored, name, path), len(x)) for name in arrays}
    once = np.sort(distinct_rows(x, _codes(y, [*found.values(), *further.values()])))
    rows = once[_choice(len(once), at_most, seed)]
    origin["digest"] = digest.of_arrays({"x": x, "y": y, **further, **found})
    origin |= {"of": len(x), "n": len(rows)}
    if len(once) < len(x):
        origin["repeated"] = len(x) - len(once)
    return Samples(
        x[rows],
        y[rows],
        {name: labels[rows] for name, labels in found.items()},
        origin,
        {name: values[rows] for name, values in further.items()},
    )


def _codes(y: NDArray[np.int64], columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Whole numbers [N] that are equal where the labels and all columns [N, ...] are."""
    for column in columns:
        _, places = np.unique(column.reshape(len(y), -1), axis=0, return_inverse=True)
        _, y = np.unique(np.stack([y, places.ravel()], axis=1), axis=0, return_inverse=True)
        y = y.ravel()
    return y


def _stored(path: Path, labels: Path | None) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The arrays by name, read when they are asked for, and what a report says of the files."""
    content = _content(path)
    origin: dict[str, Any] = {"name": path.name, "sha256": digest.of_bytes(content)}
    if content.startswith(np.lib.format.MAGIC_PREFIX):
        if labels is None:
            raise InvalidInputError(
                f"{path.name!r} holds one array, the inputs; name the file of the labels: "
                f"--labels y.npy (of members: --member-labels), or use an npz file of x and y"
            )
        beside = _content(labels)
        origin["labels"] = {"name": labels.name, "sha256": digest.of_bytes(beside)}
        return {"x": _open(path, content), "y": _open(labels, beside)}, origin
    if labels is not None:
        raise InvalidInputError(
            f"the labels {labels.name!r} go with an npy file of inputs, but {path.name!r} is none"
        )
    _check_size(path, content)
    opened = _open(path, content)
    if not isinstance(opened, Mapping):
        raise _no_data(path, "it is damaged")
    return opened, origin


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise InvalidInputError(f"the data {os.fspath(path)!r} cannot be read: {why}") from exc


def _check_size(path: Path, content: bytes) -> None:
    """Raise `InvalidInputError` for what no data is packed to: unpacking it fills the memory."""
    try:
        check_size(io.BytesIO(content), path.name)
    except InvalidInputError:
        raise
    except Exception as exc:  # whatever a damaged archive leads to
        raise _no_data(path, "it is none, or damaged") from exc


def _open(path: Path, content: bytes) -> Any:
    """What NumPy reads of a file; pickles are never loaded."""
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as exc:
        raise _no_data(path, _why(exc)) from exc


def _array(stored: Mapping[str, Any], name: str, path: str | os.PathLike[str]) -> NDArray[Any]:
    try:
        array = stored[name]
    except Exception as exc:
        raise _no_data(Path(path), f"`{name}`: {_why(exc)}") from exc
    if not isinstance(array, np.ndarray):
        raise _no_data(Path(path), f"`{name}` is no array")
    return array


def _why(exc: Exception) -> str:
    """The reason, without NumPy's advice to load pickles all the same."""
    if "pickle" in str(exc):
        return (
            "Object arrays cannot be loaded, as they are pickles; turn them into numbers or text, "
            "None and NaN included"
        )
    return f"{exc}"


def _no_data(path: Path, why: str) -> InvalidInputError:
    kind = (
        "npy file of a plain array (numpy.save)"
        if path.suffix == ".npy"
        else ("npz file of plain arrays (numpy.savez)")
    )
    return InvalidInputError(f"{path.name!r} must be an {kind}, but: {why}")


def _group(name: str, labels: NDArray[Any], n: int) -> NDArray[Any]:
    rule = f"`{name}` must hold one integer or text for each of the {n} samples, "
    if labels.shape != (n,) or labels.dtype.kind not in "biuUSf":
        raise InvalidInputError(f"{rule}but got {labels.dtype} of shape {labels.shape}")
    try:
        text = labels.astype(str)
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"{rule}but got bytes that are no ASCII; decode them") from exc
    none = sum(label.strip().casefold() in _NONE for label in text.tolist())
    if none:
        raise InvalidInputError(
            f"{rule}but {none} of them have none (None, NaN or an empty text); give them a name "
            f"of their own, or leave them out"
        )
    if labels.dtype.kind == "f":
        raise InvalidInputError(f"{rule}but got {labels.dtype}; if they are whole, astype(int)")
    return text


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
