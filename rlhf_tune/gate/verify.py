"""Whether a model's file is the one that a report says passed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_tune.errors import InvalidInputError, RlhfTuneError
from rlhf_tune.gate import digest
from rlhf_tune.gate.artifact import ModelFile
from rlhf_tune.gate.report import READABLE, SCHEMA


@dataclass(frozen=True)
class Finding:
    """What `verify` says: the exit status, and why in one sentence."""

    exit_code: int
    message: str


def verify(model: str | os.PathLike[str], report: str | os.PathLike[str]) -> Finding:
    """Whether `model` is the very file that `report` says passed.

    Raises:
        ArtifactError: If the model cannot be read.
        InvalidInputError: If the report cannot be read, or is no report of a version that is known.
    """
    document = _document(report)
    file = ModelFile.read(model)
    if document.get("digest") != digest.of_document(document):
        return Finding(3, "the report was changed after it was made: its digest does not match")
    artifact, sha256 = document["artifact"], file.identity.sha256
    if artifact["sha256"] != sha256:
        return Finding(1, f"this is not the file that was gated: {_difference(file, artifact)}")
    if document["verdict"] != "pass" or document["exit_code"] != 0:
        return Finding(1, f"this file did not pass: its verdict is {document['verdict']!r}")
    return Finding(0, f"this is the file that passed: sha256 {sha256}")


def _document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A report of a known version, by its outline; what it says is for its digest to guard."""
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as exc:
        why = exc.strerror or exc
        raise InvalidInputError(f"the report {os.fspath(path)!r} cannot be read: {why}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"the report {os.fspath(path)!r} must be JSON, but: {exc}") from exc
    if not isinstance(document, dict) or not isinstance(document.get("artifact"), dict):
        raise InvalidInputError(f"{os.fspath(path)!r} must be a report of rlhf-tune gate")
    wanted = [f"{SCHEMA}{version}" for version in READABLE]
    if document.get("schema") not in wanted or not {"verdict", "exit_code"} <= document.keys():
        raise InvalidInputError(
            f"the report's schema must be one of {wanted}, but is {document.get('schema')!r}"
        )
    return document


def _difference(file: ModelFile, artifact: dict[str, Any]) -> str:
    try:
        same = file.weights_digest() == artifact.get("weights_digest")
    except RlhfTuneError as exc:
        return f"the file differs, and its weights cannot be compared ({exc})"
    if same:
        return (
            "the file differs and the weights do not, as when a model is saved again; "
            "ship the file that was gated, or gate this one"
        )
    return "the file and its weights differ"
