"""Text of unknown origin, printable: names of classes, groups, files, constraints and studies.

Whoever gives a name may put signs into it that steer a terminal, turn its direction, or are markup
where it is shown. A terminal and XML get `rlhf_tune.errors.plain`, a document in Markdown what is
here; where rich prints, a name is a `rich.text.Text`, or markup is off.
"""

from __future__ import annotations

import re

from rlhf_tune.errors import plain

_MARKUP = re.compile(r"[\\`*_{}\[\]<>|#!~&]|:(?=//)|(?i:(?<=www))\.")


def markdown(text: str) -> str:
    """Text on one line that cannot break out of a table cell, nor be taken for markup or a link."""
    escaped = _MARKUP.sub(r"\\\g<0>", plain(text))
    return escaped.replace("@", "@\N{ZERO WIDTH SPACE}")  # names nobody
