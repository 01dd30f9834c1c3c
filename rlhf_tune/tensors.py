"""Files of tensors: safetensors, read and written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError

Array = NDArray[np.float64]
Tensor = NDArray[np.floating[Any]]

SHIPPED = Path(__file__).with_name("pretrained") / "prior.safetensors"


def read_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file, in double precision.

    Raises:
        InvalidInputError: If it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name).astype(np.float64) for name in names}
    except (OSError, SafetensorError, TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"a policy file must be one that `rlhf-tune pretrain` wrote, but {path} cannot be "
            f"read ({exc})"
        ) from exc


def write_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.numpy import save as encoded

    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(encoded(contiguous, metadata=dict(about)))
    partial.replace(path)
