"""What a release must satisfy: a file in TOML, or the same as command-line options."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import requirements, rows
from rlhf_tune.gate.rows import Kind, Row

if TYPE_CHECKING:
    from rlhf_tune.safety.attacks import AttackName
    from rlhf_tune.safety.evaluation import Outputs

Radius = Any
"""A number; or tuples of numbers by feature, nested as the samples' axes."""

OUTPUTS = ("report", "junit", "markdown", "attestation")

_SWEEP = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # in multiples of eps


def _row(group: str, kind: Kind, metavar: str | tuple[str, ...], text: str) -> dict[str, Any]:
    """Of a field, all of its row that its name and its default do not say."""
    return {"group": group, "kind": kind, "metavar": metavar, "help": text}


_evidence = partial(_row, "evidence")
_attacked = partial(_row, "requirements")
_output = partial(_row, "output")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What `rlhf-tune gate` was asked; each field is an option and a key of the spec file.

    Attributes:
        requirements: The values of the rows of `requirements.REQUIREMENTS` by name; None for
            what is not asked.
    """

    data: Path = field(
        metadata=_evidence(
            rows.FILE,
            "FILE.npz",
            "held-out samples: arrays x, y and, if wanted, groups; or an npy file of x",
        )
    )
    labels: Path | None = field(
        default=None, metadata=_evidence(rows.FILE, "Y.npy", "y, where --data is an npy file of x")
    )
    bounds: tuple[Radius, Radius] = field(
        default=(0.0, 1.0),
        metadata=_evidence(
            rows.RANGE,
            ("LOW", "HIGH"),
            "range of x; default: 0 1; in a spec file also two lists, for each feature",
        ),
    )
    groups: tuple[str, ...] | None = field(
        default=None,
        metadata=_evidence(
            rows.TEXTS,
            "NAME",
            "arrays of FILE.npz whose every group must keep the floors, and whose groups "
            "--max-unfairness compares; default: groups, if there",
        ),
    )
    members: Path | None = field(
        default=None,
        metadata=_evidence(
            rows.FILE, "FILE.npz", "samples of the training set, none of --data, for --max-leakage"
        ),
    )
    member_labels: Path | None = field(
        default=None,
        metadata=_evidence(rows.FILE, "Y.npy", "y, where --members is an npy file of x"),
    )
    baseline: Path | None = field(
        default=None,
        metadata=_evidence(rows.FILE, "OLD_MODEL", "the model not to fall behind; needs --margin"),
    )
    factory: str | None = field(
        default=None,
        metadata=_evidence(
            rows.TEXT,
            "PACKAGE.MODULE:FUNCTION",
            "builds the model for a file of weights alone, or for a .keras file with layers of "
            "your own; the only way that your code runs",
        ),
    )
    baseline_factory: str | None = field(
        default=None,
        metadata=_evidence(rows.TEXT, "...", "the same for OLD_MODEL; default: --factory"),
    )
    max_samples: int | None = field(
        default=None,
        metadata=_evidence(rows.COUNT, "N", "measure on N different samples chosen by --seed"),
    )
    seed: int = field(
        default=0,
        metadata=_evidence(rows.SEED, "N", "of that choice and of random starts; default: 0"),
    )
    eps: Radius = field(
        metadata=_attacked(
            rows.RADIUS,
            "E",
            "radius of the attacks (Linf), in units of x: 0.03 or 8/255; in a spec file also a "
            "list, a radius for each feature",
        )
    )
    outputs: Outputs = field(
        default="auto",
        metadata=_attacked(
            rows.OUTPUTS, "KIND", "what the model returns: logits, probabilities; default: auto"
        ),
    )
    requirements: Mapping[str, Any]
    unfairness_metric: str = field(
        default="demographic_parity",
        metadata=_attacked(
            rows.METRIC,
            "METRIC",
            "of --max-unfairness: demographic_parity, equal_opportunity or equalized_odds; "
            "default: the first",
        ),
    )
    confidence: float = field(
        default=0.95,
        metadata=_attacked(
            rows.CONFIDENCE, "P", "of the one-sided bounds that decide; default: 0.95"
        ),
    )
    attack: tuple[AttackName, ...] = field(
        default_factory=rows.ladder,
        metadata=_attacked(
            rows.ATTACKS,
            "A,B",
            "curves of the sweep, of noise, fgsm and pgd; the verdict counts all three anyway",
        ),
    )
    sweep: tuple[float, ...] | None = field(
        default=None,
        metadata=_attacked(
            rows.NUMBERS,
            "E",
            "radii of the sweep, for the curve; multiples of eps, where eps is a list",
        ),
    )
    report: Path | None = field(
        default=None,
        metadata=_output(rows.output(".json"), "R.json", "the report, which verify reads"),
    )
    junit: Path | None = field(
        default=None,
        metadata=_output(rows.output(".xml"), "R.xml", "JUnit XML, a case for each requirement"),
    )
    markdown: Path | None = field(
        default=None,
        metadata=_output(
            rows.output(".md"), "R.md", "Markdown for a pull request, with R.png beside it"
        ),
    )
    attestation: Path | None = field(
        default=None,
        metadata=_output(
            rows.output(".json"), "S.json", "an in-toto statement (test-result), to be signed"
        ),
    )

    @property
    def radii(self) -> tuple[float, ...]:
        """The radii of the sweep, rising; by default 0 and .25, .5, 1, 1.5 and 2 times `eps`.

        Where `eps` is given by feature, they are multiples of it.
        """
        if self.sweep is not None:
            return tuple(sorted(set(self.sweep)))
        if isinstance(self.eps, tuple):
            return _SWEEP
        largest = max(rows.widths(*self.bounds)) / 2
        return tuple(sorted({min(self.eps * k, max(self.eps, largest)) for k in _SWEEP}))

    @property
    def by_feature(self) -> tuple[Any, ...] | None:
        """The radius for each feature; None where one number is that of all."""
        return self.eps if isinstance(self.eps, tuple) else None

    def as_json(self) -> dict[str, Any]:
        """What was asked, without where: of paths only the name; defaults included."""
        values = {**vars(self), **self.requirements}
        return {
            name: value.name if isinstance(value, Path) else value
            for name, value in values.items()
            if name not in (*OUTPUTS, "requirements")
        }


def known_rows() -> Iterator[Row]:
    """Every key of the spec, in the order of the help."""
    for each in fields(Spec):
        if each.name == "requirements":
            yield from requirements.REQUIREMENTS
        else:
            yield Row(each.name, required=_required(each), **each.metadata)


def _required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def gather(path: str | os.PathLike[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a spec file and of options, which take precedence, each of its type.

    Args:
        path: A TOML file; its paths are relative to its folder. None for options alone.
        given: Options by key, in the types of TOML; paths relative to the current folder.

    Raises:
        InvalidInputError: If the file cannot be read, has unknown keys or values of wrong types.
    """
    if path is None:
        return _typed(given)
    return {**of_table(read_toml(Path(path)), Path(path)), **_typed(given)}


def of_values(values: Mapping[str, Any]) -> Spec:
    """The spec of what `gather` found.

    Raises:
        InvalidInputError: If something is missing, or a value or the whole breaks a rule.
    """
    known = list(known_rows())
    missing = [row.name for row in known if row.required and row.name not in values]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise InvalidInputError(f"{options} must be given, as an option or in the spec file")
    for row in known:
        if row.name in values:
            row.kind.rule(row.name, values[row.name])
        if row.needs is not None and (row.name in values) != (row.needs in values):
            raise InvalidInputError(f"`{row.needs}` and `{row.name}` must be given together")
    asked = {row.name: values.get(row.name) for row in requirements.REQUIREMENTS}
    spec = Spec(**{k: v for k, v in values.items() if k not in asked}, requirements=asked)
    most = math.inf if isinstance(spec.eps, tuple) else max(rows.widths(*spec.bounds))
    if not all(0 <= radius <= most for radius in spec.sweep or ()):
        raise InvalidInputError(
            f"`sweep` must be within the data range (0, {most:g}), but got {spec.sweep}"
        )
    return spec


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        InvalidInputError: If it cannot be read, or is none.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise InvalidInputError(f"the spec {str(path)!r} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"the spec {str(path)!r} must be TOML, but: {exc}") from exc


def of_table(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The values of a spec's table; paths are relative to the folder of the file `path`.

    Raises:
        InvalidInputError: If it has unknown keys or values of wrong types.
    """
    known = sorted(row.name for row in known_rows())
    unknown = sorted(table.keys() - set(known))
    if unknown:
        raise InvalidInputError(
            f"the spec {path.name!r} has the unknown keys {unknown}; known are {known}"
        )
    return {
        name: path.parent / value if isinstance(value, Path) else value
        for name, value in _typed(table).items()
    }


def _typed(table: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {row.name: row.kind for row in known_rows()}
    return {name: kinds[name].read(name, value) for name, value in table.items()}
