"""What exceptions of other packages say."""

from __future__ import annotations

import re


def shortened(exc: Exception) -> str:
    """What a foreign exception says, as a part of a sentence of our own."""
    said = exc.args[0] if isinstance(exc, KeyError) and exc.args else getattr(exc, "message", exc)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(said))  # Keras' is in bold
    if "\n  File" in plain:  # TensorFlow says where a program was made before it says why
        plain = plain.rpartition("\n\n")[2]
    return " ".join(plain.split())[:200]
