"""A report as annotations of a GitHub workflow: `python -m rlhf_tune.gate.annotations gate.json`.

Text in a report may come from a model or its data, so that nothing in it can end an annotation and
begin a command of its own. Source: "Workflow commands for GitHub Actions" and the escapes of
`actions/toolkit`, `packages/core/src/command.ts`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_tune.errors import plain


def lines(document: Mapping[str, Any], file: str = "") -> Iterator[str]:
    """A line for each requirement that did not pass, and for an error; a notice for a pass.

    Args:
        document: As `GateReport.as_document` makes it.
        file: Where they are shown, such as the spec's path in the repository.
    """
    about = document["artifact"]["name"] or "a model"
    if document["error"] is not None:
        yield _command("error", file, f"gate: {about}", document["error"])
    for row in document["requirements"]:
        if row["outcome"] != "pass":
            level = "error" if row["outcome"] == "refused" else "warning"
            yield _command(level, file, f"{about}: {row['name']}", row["remark"] or row["outcome"])
    if document["verdict"] == "pass":
        sha256 = document["artifact"]["sha256"]
        yield _command("notice", file, f"gate: {about}", f"passed; sha256 {sha256}")


def _command(level: str, file: str, title: str, message: str) -> str:
    values = {"file": file, "title": title}
    properties = ",".join(f"{k}={_escaped(v, ':,')}" for k, v in values.items() if v)
    return f"::{level} {properties}::{_escaped(plain(message))}"


def _escaped(text: str, further: str = "") -> str:
    for character in "%\r\n" + further:  # the percent sign first
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Print the annotations of a report."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_tune.gate.annotations", description=__doc__.splitlines()[0]
    )
    parser.add_argument("report", type=Path, metavar="R.json")
    parser.add_argument("--file", default="", help="where they are shown, such as the spec")
    args = parser.parse_args(argv)
    for line in lines(json.loads(args.report.read_bytes()), args.file):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
