"""Reads Keras' model files, in safe mode."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from rlhf_tune.errors import ArtifactError, require
from rlhf_tune.quiet import native_stderr_dropped

with native_stderr_dropped():
    keras = require("keras", extra="keras")


def load(content: bytes, suffix: str) -> Any:
    """The model of a ``.keras`` file; see `Loader.load`.

    Safe mode refuses Lambda layers and every class that is not Keras' own. What the model was
    compiled with is left out.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ArtifactError("the file must be a Keras archive, but is no zip file, or damaged")
    with tempfile.TemporaryDirectory(prefix="rlhf-tune-") as folder:  # Keras reads only paths
        path = Path(folder) / f"model{suffix}"
        path.write_bytes(content)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as exc:
            raise ArtifactError(f"Keras refuses the file in safe mode: {_brief(exc)}") from exc


def _brief(exc: Exception) -> str:
    """The reason in Keras' message, without the configuration and the advice around it."""
    text = " ".join(str(exc).split()).rpartition("Exception encountered: ")[2]
    for tail in (" Full object config:", " config={", " If you trust", " Make sure"):
        text = text.partition(tail)[0]
    return text[:300]
