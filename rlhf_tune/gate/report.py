"""The outcome of a gate as one value, and as a JSON document that shows when it was edited."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata, resources
from typing import Any, Literal, final

import numpy as np

from rlhf_tune.errors import (
    UNFORESEEN,
    ArtifactError,
    RlhfTuneError,
    TooFewSamplesError,
    UnsupportedModelError,
)
from rlhf_tune.gate import digest, render
from rlhf_tune.gate.artifact import Identity
from rlhf_tune.gate.sweep import Point
from rlhf_tune.safety.listing import listed
from rlhf_tune.safety.measurement import Measurement
from rlhf_tune.safety.shortfall import samples_needed
from rlhf_tune.tabled import Tabled
from rlhf_tune.tables import Table

Outcome = Literal["pass", "refused", "inconclusive", "untrusted"]

SCHEMA = "rlhf-tune/gate-report/"
VERSION = 3  # of the JSON document; a change that a reader must know of raises it
READABLE = (1, 2, 3)  # versions that `verify` reads
CODES: Mapping[Outcome, int] = {"pass": 0, "refused": 1, "inconclusive": 3, "untrusted": 3}

_PACKAGES = ("cleverhans", "keras", "numpy", "scipy", "tensorflow", "torch")


def code_of(exc: BaseException) -> int:
    """The exit status of what went wrong; what nobody foresaw has one that no verdict has."""
    if isinstance(exc, ArtifactError):
        return 4
    if isinstance(exc, UnsupportedModelError | TooFewSamplesError):
        return 3
    return 2 if isinstance(exc, RlhfTuneError) else UNFORESEEN


def outcome_of(measurement: Measurement) -> Outcome:
    """What one measurement says of its requirement.

    Where the value keeps the bound but its confidence bound does not, the evidence is too little
    to decide: "inconclusive". It is "untrusted" where it contradicts itself.
    """
    if measurement.trusted and measurement.satisfied:
        return "pass"
    if not measurement.trusted:
        return "untrusted"
    if not _kept(measurement):
        return "refused"
    return "untrusted" if math.isnan(measurement.cost) else "inconclusive"


def remark(measurement: Measurement) -> str | None:
    """Why a requirement did not pass, as a sentence; None if it did."""
    outcome = outcome_of(measurement)
    if outcome == "pass":
        return None
    if outcome == "refused":
        sign = "below" if measurement.kind == "floor" else "above"
        return f"{measurement.value:.4g} is {sign} the bound of {measurement.bound:g}"
    if not measurement.trusted:
        return "; ".join(measurement.reasons) or "the evidence is not trusted"
    low, high = measurement.interval
    side, edge = ("lower", low) if measurement.kind == "floor" else ("upper", high)
    text = f"too few samples: {measurement.value:.4g} keeps the bound of {measurement.bound:g}, "
    text += f"but its one-sided {side} bound is {edge:.4g}"
    needed = samples_needed(measurement)
    return text if needed is None else f"{text}; about {needed} samples would do at this value"


def _kept(measurement: Measurement) -> bool:
    if measurement.kind == "floor":
        return measurement.value >= measurement.bound
    return measurement.value <= measurement.bound


def now() -> str:
    """The time in UTC, or that of SOURCE_DATE_EPOCH, so that reports can be reproduced."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(fixed) if fixed.isdecimal() and len(fixed) < 12 else int(time.time())
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@final
@dataclass(frozen=True)
class GateReport(Tabled):
    """What a gate found, and whether the model may pass; prints as a table.

    Attributes:
        measurements: One of each requirement.
        artifact: Which file, and which weights.
        curve: The accuracy over the radii of the sweep.
        inputs: Where the evidence comes from, as JSON: spec, data, members, baseline.
        error: What went wrong before everything was measured, if anything did.
        error_code: The exit status that belongs to `error`.
        error_verdict: The verdict that belongs to it.
        created: When, in UTC.
    """

    measurements: tuple[Measurement, ...] = ()
    artifact: Identity = field(default_factory=Identity)
    curve: tuple[Point, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_code: int = 3
    error_verdict: Outcome = "untrusted"
    created: str = field(default_factory=now)

    @property
    def verdict(self) -> Outcome:
        """What the requirements say together: refused if one surely fails, a pass if all pass."""
        outcomes = {outcome_of(measurement) for measurement in self.measurements}
        if self.error is not None:
            return self.error_verdict
        if not outcomes:
            return "untrusted"
        worst: tuple[Outcome, ...] = ("refused", "untrusted", "inconclusive")
        return next((outcome for outcome in worst if outcome in outcomes), "pass")

    @property
    def exit_code(self) -> int:
        """The exit status of ``rlhf-tune gate``."""
        return CODES[self.verdict] if self.error is None else self.error_code

    @property
    def sha256(self) -> str | None:
        """Of the model's file; None for a model in memory."""
        return self.artifact.sha256

    @property
    def weights_digest(self) -> str | None:
        """Of the weights alone."""
        return self.artifact.weights_digest

    def table(self) -> Table:
        """A row for each requirement."""
        outcomes = [outcome_of(measurement) for measurement in self.measurements]
        remarks = [
            f"{m.name}: {remark(m)}"
            for m, outcome in zip(self.measurements, outcomes, strict=True)
            if outcome in ("refused", "inconclusive")
        ]
        errors = [] if self.error is None else [f"error: {self.error}"]
        title = f"{self.verdict}: {self.artifact.name or 'a model in memory'}"
        return listed(self.measurements, outcomes, title=title, notes=[*errors, *remarks])

    def as_document(self) -> dict[str, Any]:
        """The report as JSON values, with the digest of itself."""
        document = _plain(
            {
                "schema": f"{SCHEMA}{VERSION}",
                "verdict": self.verdict,
                "exit_code": self.exit_code,
                "error": self.error,
                "created": self.created,
                "artifact": asdict(self.artifact),
                "requirements": [_requirement(m) for m in self.measurements],
                "curve": [asdict(point) for point in self.curve],
                "inputs": dict(self.inputs),
                "versions": _versions(),
            }
        )
        return {**document, "digest": digest.of_document(document)}

    def to_json(self) -> str:
        """The report as text; equal reports give equal bytes."""
        return json.dumps(self.as_document(), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_junit(self) -> str:
        """JUnit XML: a test case for each requirement."""
        return render.junit(self.as_document())

    def to_markdown(self, picture: str | None = None) -> str:
        """Markdown fit for a pull request; `picture` is the file name of the curve's picture."""
        return render.markdown(self.as_document(), picture)


def _requirement(measurement: Measurement) -> dict[str, Any]:
    return {**vars(measurement), "outcome": outcome_of(measurement), "remark": remark(measurement)}


def _plain(value: Any) -> Any:
    """Only what JSON has: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _versions() -> dict[str, str]:
    """Of this package and of the libraries that took part."""
    used = [name for name in _PACKAGES if name in sys.modules]
    return {name: _version(name) for name in ("rlhf-tune", *used)}


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # installed under another name, as tensorflow-cpu
        return str(getattr(sys.modules.get(name), "__version__", "unknown"))


def schema() -> dict[str, Any]:
    """The JSON Schema of reports."""
    text = resources.files("rlhf_tune.gate").joinpath("report.schema.json").read_text("utf-8")
    return dict(json.loads(text))
