"""A report's JSON document as JUnit XML, as Markdown and as lines of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from rlhf_tune.errors import plain
from rlhf_tune.printable import markdown as cell

Document = Mapping[str, Any]

MARKS = {"pass": "✅", "refused": "❌", "inconclusive": "❔", "untrusted": "⚠️"}


def junit(document: Document) -> str:
    """JUnit XML with a test case for each requirement; what went wrong is a case of its own.

    A refused requirement is a failure, one without enough trusted evidence an error.
    """
    cases = [_case(row) for row in document["requirements"]]
    if document["error"] is not None:
        cases.append(_problem("gate", "error", "error", document["error"]))
    suite = ElementTree.Element(
        "testsuite",
        name="rlhf-tune gate",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped="0",
        timestamp=document["created"].removesuffix("Z"),
    )
    suite.append(_properties(document))
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _properties(document: Document) -> ElementTree.Element:
    artifact = document["artifact"]
    values = {
        "verdict": document["verdict"],
        "artifact": artifact["name"],
        "sha256": artifact["sha256"],
        "weights_digest": artifact["weights_digest"],
        "report_digest": document["digest"],
    }
    properties = ElementTree.Element("properties")
    for name, value in values.items():
        if value is not None:
            ElementTree.SubElement(properties, "property", name=name, value=plain(value))
    return properties


def _case(row: Mapping[str, Any]) -> ElementTree.Element:
    if row["outcome"] == "pass":
        return _new_case(row["name"])
    tag = "failure" if row["outcome"] == "refused" else "error"
    return _problem(row["name"], tag, row["outcome"], row["remark"])


def _problem(name: str, tag: str, kind: str, message: str) -> ElementTree.Element:
    case = _new_case(name)
    ElementTree.SubElement(case, tag, type=kind, message=plain(message)).text = plain(message)
    return case


def _new_case(name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", classname="rlhf_tune.gate", name=plain(name))


def markdown(document: Document, picture: str | None = None) -> str:
    """Markdown for a pull request; `picture` is the file name of the curve's picture."""
    artifact = document["artifact"]
    name = cell(artifact["name"] or "a model in memory")
    lines = [f"## Deployment gate: {MARKS[document['verdict']]} {document['verdict']}", ""]
    lines += [f"Model: {name}  "]
    lines += [f"{key}: {cell(artifact[key])}  " for key in _KEYS if artifact[key] is not None]
    if document["engine"] is not None:
        lines += [f"attacks: {cell(document['engine'])}  "]
    if document["error"] is not None:
        lines += ["", f"**Error:** {cell(document['error'])}"]
    if document["requirements"]:
        lines += ["", "| requirement | measured | one-sided bound | asked | n | outcome |"]
        lines += ["|---|---|---|---|---|---|", *map(_row, document["requirements"])]
    remarks = [row for row in document["requirements"] if row["remark"] is not None]
    if remarks:
        lines += ["", *(f"- {cell(row['name'])}: {cell(row['remark'])}" for row in remarks)]
    repeats = {key: document["inputs"].get(key, {}) for key in ("data", "members")}
    lines += [
        line
        for key, origin in repeats.items()
        if "repeated" in origin
        for line in ("", f"`{key}`: {repeated(origin)}.")
    ]
    if picture is not None:
        lines += ["", f"![Accuracy over the radius of the attack]({_link(picture)})"]
    lines += ["", f"Made {document['created']}; digest of the report `{document['digest']}`."]
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode() + "\n"


_KEYS = ("sha256", "weights_digest", "factory")


def _row(row: Mapping[str, Any]) -> str:
    cells = [cell(row["name"]), *figures(row), f"{MARKS[row['outcome']]} {row['outcome']}"]
    return f"| {' | '.join(cells)} |"


def figures(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Value, deciding confidence bound, what was asked, and n, as short texts."""
    floor = row["kind"] == "floor"
    edge, sign = row["interval"][0 if floor else 1], ">=" if floor else "<="
    return (
        _number(row["value"]),
        f"{sign} {_number(edge)}",
        f"{sign} {_number(row['bound'])}",
        str(row["n"]),
    )


def repeated(origin: Mapping[str, Any]) -> str:
    """That samples repeat others, where a report's inputs say so."""
    count, total = origin["repeated"], origin["of"]
    return f"{count} of {total} samples repeat others exactly and are not counted"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _link(name: str) -> str:
    return re.sub(r"[^\w.\-/]", lambda found: "".join(f"%{b:02X}" for b in found[0].encode()), name)
