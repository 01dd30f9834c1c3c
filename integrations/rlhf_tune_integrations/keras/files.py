"""Reads Keras' model files, in safe mode, and the weights in them for a model of one's own."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import ArtifactError, require
from rlhf_tune.frameworks import WeightsOnly
from rlhf_tune.quiet import native_stderr_dropped

with native_stderr_dropped():
    keras = require("keras", extra="keras")

WEIGHTS = ".weights.h5"

_WHOLE = "model.weights.h5"  # within a .keras archive
_EXPANSION, _ROOM = 1000, 2**26  # no stored weights shrink to so little


def load(content: bytes, suffix: str) -> Any:
    """The model of a ``.keras`` file, or the weights of a ``.weights.h5``; see `Loader.load`.

    Safe mode refuses Lambda layers and every class that is not Keras' own. What the model was
    compiled with is left out.
    """
    if suffix == WEIGHTS:
        return weights(content, suffix)
    _check_archive(content)
    with _placed(content, suffix) as path:
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as exc:
            raise ArtifactError(
                f"Keras refuses the file in safe mode: {_brief(exc)}; where layers are classes of "
                f"your own, name the function that builds the model: --factory "
                f"package.module:function"
            ) from exc


def weights(content: bytes, suffix: str) -> WeightsOnly:
    """The weights of either file, for a model that a function builds; its layers are not read.

    Raises:
        ArtifactError: If it is damaged, or reaches outside of itself.
    """
    if suffix != WEIGHTS:
        _check_archive(content)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(_WHOLE)
        except Exception as exc:
            raise ArtifactError(f"the file must hold a model by Keras, but: {exc}") from exc
    with _placed(content, WEIGHTS) as path:
        arrays = _arrays(path)
    return WeightsOnly(arrays, lambda model: _assign(model, content))


def _check_archive(content: bytes) -> None:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ArtifactError("the file must be a Keras archive, but is no zip file, or damaged")


@contextmanager
def _placed(content: bytes, suffix: str) -> Iterator[Path]:
    """A file of one's own with this content, since Keras reads only paths."""
    with tempfile.TemporaryDirectory(prefix="rlhf-tune-") as folder:
        path = Path(folder) / f"model{suffix}"
        path.write_bytes(content)
        yield path


def _assign(model: Any, content: bytes) -> None:
    """Put weights into a model; afterwards it holds every one of them and no others."""
    if not isinstance(model, keras.Model):
        raise ArtifactError(
            f"the file's weights are for a keras.Model, but got {type(model).__name__}"
        )
    with _placed(content, WEIGHTS) as path:
        expected = _arrays(path)
        try:
            model.load_weights(path)
            model.save_weights(path, overwrite=True)
        except Exception as exc:
            raise ArtifactError(
                f"the file's weights must fit the model that the function builds, "
                f"but: {_brief(exc)}"
            ) from exc
        found = _arrays(path)
    differ = {
        name
        for name in expected.keys() | found.keys()
        if not (
            name in expected
            and name in found
            and np.array_equal(expected[name], found[name], equal_nan=True)
        )
    }
    if differ:  # Keras leaves out without a word what the model has no layer for
        raise ArtifactError(
            f"the file's weights must be those of the model that the function builds, but differ "
            f"in {sorted(differ)[:5]}"
        )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The weights of an HDF5 file by their place in the model, those of an optimizer left out.

    Raises:
        ArtifactError: If it is damaged, or refers to other files or to numbers it does not hold.
    """
    h5py = require("h5py", extra="keras")
    found = {}

    def take(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer/"):
            return
        stored = item.id.get_storage_size()
        if item.external or item.is_virtual or item.nbytes > max(_ROOM, _EXPANSION * stored):
            raise ArtifactError(f"the weights {name!r} are not held by the file itself")
        found[name] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)
    except ArtifactError:
        raise
    except Exception as exc:
        raise ArtifactError(f"the file must hold weights by Keras, but: {_brief(exc)}") from exc
    if not found:
        raise ArtifactError("the file must hold weights by model.save_weights, but holds none")
    return found


def _brief(exc: Exception) -> str:
    """The reason in Keras' message, without the configuration and the advice around it."""
    text = " ".join(str(exc).split()).rpartition("Exception encountered: ")[2]
    for tail in (" Full object config:", " config={", " If you trust", " Make sure"):
        text = text.partition(tail)[0]
    return text[:300]
