"""Where reports go: looked at before anything runs, and written whole or not at all.

Nothing is overwritten or deleted but earlier reports of the gate, told by what they hold.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate.attestation import is_statement
from rlhf_tune.gate.report import SCHEMA

PICTURE = ".png"  # beside the Markdown
MARK = "rlhf-tune gate"  # names the suite in JUnit XML, and the source of a picture

_ROOM = b"\0" * 2**16  # what a disk must have left at least

_SUITE = re.compile(rb'<\?xml .*\?>\s*<testsuites>\s*<testsuite name="rlhf-tune gate" ')
_END = re.compile(rb"\nMade [\dTZ:-]+; digest of the report `[0-9a-f]{64}`\.\s*\Z")


def prepare(paths: Mapping[str, Path]) -> dict[str, Path]:
    """See that every output can be written, and remove older reports: none outlives a crash.

    Args:
        paths: The outputs by kind, as the keys of a spec name them.

    Returns:
        The same, with the ``picture`` beside the ``markdown``.

    Raises:
        InvalidInputError: If a folder is missing or not writable, two paths are the same, or one
            holds anything but an earlier report. Then nothing was removed.
    """
    known = dict(paths)
    if "markdown" in paths:
        known["picture"] = paths["markdown"].with_suffix(PICTURE)
    if len({path.absolute() for path in known.values()}) < len(known):
        raise InvalidInputError(
            f"every report must have a file of its own, but got {[str(p) for p in known.values()]}"
        )
    for kind, path in known.items():
        _check(path, _OWN[kind])
    for path in known.values():
        path.unlink(missing_ok=True)
    return known


def write(contents: Mapping[Path, bytes]) -> None:
    """Write files in their order, each whole; on any failure there is none of them.

    Raises:
        OSError: If one cannot be written.
    """
    try:
        files.write_all(contents)
    except BaseException:
        for path in contents:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _check(path: Path, own: Callable[[bytes], bool]) -> None:
    """Raise `InvalidInputError` unless a report may be written here; an empty file is nobody's."""
    problem = ""
    try:
        if path.is_dir():
            problem = "it is a folder"
        elif path.exists() and not (path.is_file() and _is_ours(path.read_bytes(), own)):
            problem = "it holds no report of the gate; choose another path or remove it"
        else:
            with TemporaryFile(dir=path.parent) as file:
                file.write(_ROOM)
                file.flush()
                os.fsync(file.fileno())
    except (OSError, ValueError) as exc:
        problem = str(getattr(exc, "strerror", None) or exc)
    if problem:
        raise InvalidInputError(f"a report cannot be written to {str(path)!r}: {problem}")


def _is_ours(content: bytes, own: Callable[[bytes], bool]) -> bool:
    return not content or own(content)


def _is_json(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and str(document.get("schema")).startswith(SCHEMA)


def _is_junit(content: bytes) -> bool:
    return _SUITE.match(content) is not None


def _is_markdown(content: bytes) -> bool:
    return content.startswith(b"## Deployment gate: ") and _END.search(content) is not None


def _is_picture(content: bytes) -> bool:
    return content.startswith(b"\x89PNG") and b"tEXtSource\0rlhf-tune gate" in content[:1000]


_OWN = {
    "report": _is_json,
    "junit": _is_junit,
    "markdown": _is_markdown,
    "attestation": is_statement,
    "picture": _is_picture,
}
