"""Files of tensors: safetensors, read and written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune import files
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
    """Write a safetensors file whole or not at all; equal arguments give equal bytes."""
    from safetensors.numpy import save as encoded

    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    files.write(path, _ordered(encoded(contiguous, metadata=dict(about))))


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its header in order: equal tensors are equal bytes.

    The format is a header's length in eight bytes, the header as JSON, and the tensors at offsets
    from its end; safetensors writes the metadata in an order that is another in each process.
    """
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:begin]), sort_keys=True, separators=(",", ":"))
    text = header.encode()
    text += b" " * (-len(text) % 8)  # as the format asks for
    return len(text).to_bytes(8, "little") + text + content[begin:]
