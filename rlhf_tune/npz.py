"""Arrays of npz files whose origin is not known: sizes first, and only what was asked for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError

_EXPANSION, _ROOM = 100, 2**26  # data never shrinks to so little, and below this it may


def read(path: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name, of those that are wanted; pickles are never loaded.

    Raises:
        InvalidInputError: If it cannot be read, is damaged, or would fill the memory.
    """
    try:
        with path.open("rb") as file:
            check_size(file, path.name)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files if wanted(name)}
    except InvalidInputError:
        raise
    except OSError as exc:
        raise InvalidInputError(f"{str(path)!r} cannot be read: {exc.strerror or exc}") from exc
    except Exception as exc:  # zlib, zipfile and NumPy have a dozen of their own for damage
        raise InvalidInputError(
            f"{str(path)!r} must be an npz file of plain arrays (numpy.savez), but: {exc}"
        ) from exc


def check_size(file: IO[bytes], name: str) -> None:
    """See from its directory that an archive unpacks to what data unpack to.

    What the directory says too little of is not read further, so that it cannot lie.

    Raises:
        InvalidInputError: If it is packed as no data is.
        Exception: Whatever a damaged archive leads to.
    """
    packed = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(_ROOM, _EXPANSION * packed):
        raise InvalidInputError(
            f"{name!r} has {packed / 1e6:.3g} MB, but would unpack to "
            f"{size / 2**30:.3g} GiB; if it is meant, save it without compression by numpy.savez"
        )
