"""A model registry's tag that only a pass of the gate gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rlhf_tune.errors import InvalidInputError, require
from rlhf_tune.gate.verify import verify

TAG = "rlhf_tune.gate"


def tag_in_mlflow(
    name: str,
    version: int | str,
    *,
    model: str | os.PathLike[str],
    report: str | os.PathLike[str],
    client: Any = None,
) -> None:
    """Tag a version of a model in MLflow's registry as passed; an older tag goes first.

    The tags are `rlhf_tune.gate` = "pass", `rlhf_tune.gate.sha256` of the file and
    `rlhf_tune.gate.report`, the digest of the report.

    Args:
        name: Of the registered model.
        version: Of it.
        model: The file that was gated, as the version holds it.
        report: By ``rlhf-tune gate --report``.
        client: An ``mlflow.MlflowClient``; by default a new one.

    Raises:
        InvalidInputError: If the report says anything but that this very file passed; then the
            version has no tag.
        ArtifactError: If the model cannot be read.
        MissingExtraError: If MLflow is not installed.
    """
    to = require("mlflow", extra="mlflow").MlflowClient() if client is None else client
    if TAG in to.get_model_version(name, str(version)).tags:
        to.delete_model_version_tag(name, str(version), TAG)
    finding = verify(model, report)
    if finding.exit_code != 0:
        raise InvalidInputError(
            f"a version is tagged after a pass only, but {finding.message}; gate the file first"
        )
    document = json.loads(Path(report).read_bytes())
    tags = {
        f"{TAG}.sha256": document["artifact"]["sha256"],
        f"{TAG}.report": document["digest"],
        TAG: "pass",  # the last, so that it vouches for the others
    }
    for key, value in tags.items():
        to.set_model_version_tag(name, str(version), key, value)
