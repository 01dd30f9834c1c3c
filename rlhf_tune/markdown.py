"""Text of unknown origin in Markdown."""

from __future__ import annotations

import re

from rlhf_tune.errors import plain


def cell(text: str) -> str:
    """Text that cannot break out of a cell of Markdown, nor be taken for markup or a link."""
    escaped = re.sub(r"[\\`*_{}\[\]<>|#!~&]|:(?=//)|(?i:(?<=www))\.", r"\\\g<0>", plain(text))
    return escaped.replace("@", "@\N{ZERO WIDTH SPACE}")  # names nobody
