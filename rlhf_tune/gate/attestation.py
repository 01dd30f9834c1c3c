"""A report as an in-toto statement, which supply-chain tools sign and check.

Source: in-toto Statement v1 (https://in-toto.io/Statement/v1) with the predicate test-result v0.1
(https://in-toto.io/attestation/test-result/v0.1).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
SPEC = "rlhf-tune gate spec"
"""Name of the configuration that says what was asked."""


def statement(document: Mapping[str, Any], report: bytes | None = None) -> bytes | None:
    """The statement of a report as JSON; None where no file was read that it could be about.

    Tests are the requirements by name; what could not be trusted, or decided, is no pass.

    Args:
        document: As `GateReport.as_document` makes it.
        report: The report's file, where one is written.
    """
    artifact = document["artifact"]
    if artifact["sha256"] is None:
        return None
    outcomes = {row["name"]: row["outcome"] for row in document["requirements"]}
    failed = [name for name, outcome in outcomes.items() if outcome != "pass"]
    content = {
        "_type": STATEMENT,
        "subject": [{"name": artifact["name"], "digest": {"sha256": artifact["sha256"]}}],
        "predicateType": PREDICATE,
        "predicate": {
            "result": "PASSED" if document["verdict"] == "pass" else "FAILED",
            "configuration": list(_configuration(document, report)),
            "passedTests": [name for name, outcome in outcomes.items() if outcome == "pass"],
            "failedTests": failed + (["gate"] if document["error"] is not None else []),
        },
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def is_statement(content: bytes) -> bool:
    """Whether a file holds a statement of the gate."""
    try:
        found = json.loads(content)
        return found["predicateType"] == PREDICATE and any(
            each["name"] == SPEC for each in found["predicate"]["configuration"]
        )
    except (ValueError, RecursionError, KeyError, TypeError):
        return False


def _configuration(document: Mapping[str, Any], report: bytes | None) -> Iterator[dict[str, Any]]:
    """What was asked and on which data, as resource descriptors; and the report itself."""
    inputs = document["inputs"]
    asked = json.dumps(inputs.get("spec", {}), sort_keys=True).encode()
    yield {
        "name": SPEC,
        "mediaType": "application/json",
        "content": base64.b64encode(asked).decode(),
        "digest": _sha256(asked),
    }
    for key in ("data", "members", "baseline"):
        if digest := inputs.get(key, {}).get("sha256"):
            yield {"name": key, "digest": {"sha256": digest}}
    if report is not None:
        yield {"name": "report", "mediaType": "application/json", "digest": _sha256(report)}


def _sha256(content: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(content).hexdigest()}
