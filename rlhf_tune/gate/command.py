"""What ``rlhf-tune gate`` and ``rlhf-tune verify`` do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rich.console import Console

from rlhf_tune.errors import (
    UNFORESEEN,
    MissingExtraError,
    TooFewSamplesError,
    plain,
    sentence,
)
from rlhf_tune.gate import npz, outputs, picture, render, requirements, spec, sweep
from rlhf_tune.gate.artifact import Identity, ModelFile
from rlhf_tune.gate.decision import measure
from rlhf_tune.gate.report import GateReport, code_of
from rlhf_tune.gate.verify import Finding, verify
from rlhf_tune.progress import bars
from rlhf_tune.safety.samples import check_apart

if TYPE_CHECKING:
    from rich.progress import Progress

_STYLES = {
    "pass": "bold green",
    "refused": "bold red",
    "inconclusive": "bold yellow",
    "untrusted": "bold yellow",
}


def gate(
    model: str,
    spec_file: str | None,
    options: Mapping[str, Any],
    *,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Decide on a model's file, write every report that was asked for; returns the exit status.

    Args:
        model: The file.
        spec_file: A spec in TOML.
        options: Keys of the spec, in the types of TOML; they take precedence.
        quiet: Show errors alone.
        as_json: Print the report as JSON.
    """
    run = _Run(model, quiet=quiet)
    try:
        report = run.report(spec_file, options)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever happens, it is no pass
        report = run.failed(exc)
    code = report.exit_code
    if report.error is not None:
        _say(report.error)
    try:
        outputs.write(_contents(report, run.outputs, quiet))
        if as_json:
            print(report.to_json(), end="", flush=True)
        elif report.error is None and not quiet:
            _show(report)
    except OSError as exc:  # a verdict that cannot be kept is no pass
        _say(f"a report cannot be written: {plain(str(exc))}")
        code = code or 2
    except Exception as exc:  # noqa: BLE001 - whatever happens, it is no pass
        _say(sentence(exc))
        code = UNFORESEEN
    return code


def verify_file(model: str, report: str, *, quiet: bool = False, as_json: bool = False) -> int:
    """Say whether a model's file is the one that passed; returns the exit status."""
    try:
        finding = verify(model, report)
    except Exception as exc:  # noqa: BLE001 - whatever happens, it is no pass
        finding = Finding(code_of(exc), sentence(exc))
    if as_json:
        print(json.dumps(asdict(finding), sort_keys=True))
    elif finding.exit_code == 0 and not quiet:
        print(finding.message)
    if finding.exit_code != 0:
        _say(finding.message)
    return finding.exit_code


@final
@dataclass
class _Run:
    """One decision, and what is known of it so far, for the report of a failure."""

    model: str
    quiet: bool
    outputs: dict[str, Path] = field(default_factory=dict)
    artifact: Identity = field(default_factory=Identity)
    inputs: dict[str, Any] = field(default_factory=dict)

    def report(self, spec_file: str | None, options: Mapping[str, Any]) -> GateReport:
        """The report of a spec file and options."""
        self._place(spec.gather(None, {k: v for k, v in options.items() if k in spec.OUTPUTS}))
        values = spec.gather(spec_file, options)
        self._place(values)
        return self._decide(spec.of_values(values))

    def failed(self, exc: BaseException) -> GateReport:
        """The report of a run that came to nothing."""
        return GateReport(
            artifact=self.artifact,
            inputs=self.inputs,
            error=sentence(exc),
            error_code=code_of(exc),
            error_verdict="inconclusive" if isinstance(exc, TooFewSamplesError) else "untrusted",
        )

    def _place(self, values: Mapping[str, Any]) -> None:
        """Know where reports go: what is refused here is never written to."""
        self.outputs = outputs.prepare({k: values[k] for k in spec.OUTPUTS if k in values})

    def _decide(self, asked: spec.Spec) -> GateReport:
        self.inputs["spec"] = asked.as_json()
        file = ModelFile.read(self.model)
        self.artifact = file.identity
        arrays = [name for row in requirements.asked(asked) for name in row.arrays]
        samples = self._samples("data", asked.data, asked.labels, asked, asked.groups, arrays)
        members = baseline = None
        if asked.members is not None:
            members = self._samples("members", asked.members, asked.member_labels, asked, ())
            check_apart(members.x, samples.x)
        requirements.check_counts(asked, samples)
        model, self.artifact = self._load(file, asked.factory)
        sweep.check_accepts(model, samples)
        if asked.baseline is not None:
            factory = asked.baseline_factory or asked.factory
            baseline, identity = self._load(ModelFile.read(asked.baseline), factory)
            self.inputs["baseline"] = asdict(identity)
            sweep.check_accepts(baseline, samples)
        constraints = requirements.of_evidence(
            requirements.Evidence(asked, samples, members, baseline)
        )
        with bars(Console(stderr=True, quiet=self.quiet)) as shown:
            measurements = measure(model, constraints, lambda steps: _track(shown, steps))
            curve = sweep.sweep(
                model, samples, _track(shown, asked.radii, "sweep"), asked.attack,
                bounds=asked.bounds, seed=asked.seed, by_feature=asked.by_feature,
                outputs=asked.outputs,
            )  # fmt: skip
        return GateReport(measurements, self.artifact, tuple(curve), self.inputs)

    def _samples(
        self,
        key: str,
        path: Path,
        labels: Path | None,
        asked: spec.Spec,
        groups: Sequence[str] | None,
        arrays: Sequence[str] = (),
    ) -> npz.Samples:
        samples = npz.load(
            path,
            labels,
            bounds=asked.bounds,
            groups=groups,
            arrays=arrays,
            at_most=asked.max_samples,
            seed=asked.seed,
        )
        self.inputs[key] = samples.origin
        if "repeated" in samples.origin and not self.quiet:
            _say(f"`{key}`: {render.repeated(samples.origin)}", kind="note")
        return samples

    def _load(self, file: ModelFile, factory: str | None) -> tuple[Any, Identity]:
        if factory is not None and not self.quiet:
            _say(f"--factory runs the code of {factory}", kind="note")
        return file.load(factory)


def _track(shown: Progress, steps: Iterable[Any], what: str = "") -> Iterator[Any]:
    """Pass steps on, and show which is under way: by a bar, or a line where it is no terminal."""
    steps = list(steps)
    bar = shown.add_task("", total=len(steps))
    for number, step in enumerate(steps, 1):
        name = f"{what} {step:g}" if what else plain(getattr(step, "name", str(step)))
        shown.update(bar, description=name, completed=number - 1)
        if not shown.console.is_terminal:
            line = f"[{number}/{len(steps)}] {name}"
            shown.console.print(line, soft_wrap=True, highlight=False, markup=False)
        yield step
    shown.remove_task(bar)


def _contents(report: GateReport, paths: Mapping[str, Path], quiet: bool) -> dict[Path, bytes]:
    """Every output that was asked for; the one that `verify` reads comes last."""
    contents = {}
    if "markdown" in paths:
        drawn = _drawn(report, quiet)
        if drawn is not None:
            contents[paths["picture"]] = drawn
        text = report.to_markdown(None if drawn is None else paths["picture"].name)
        contents[paths["markdown"]] = text.encode()
    if "junit" in paths:
        contents[paths["junit"]] = report.to_junit().encode()
    if "report" in paths:
        contents[paths["report"]] = report.to_json().encode()
    return contents


def _drawn(report: GateReport, quiet: bool) -> bytes | None:
    """The picture, for which there must be a curve, and Matplotlib."""
    if not report.curve:
        return None
    try:
        return picture.draw(report.as_document())
    except MissingExtraError as exc:
        if not quiet:
            _say(f"there is no picture: {exc}", kind="note")
        return None


def _show(report: GateReport) -> None:
    """The verdict and a line for each requirement, on standard output."""
    console = Console(highlight=False, markup=False, soft_wrap=True)

    def show(text: str, style: str = "", end: str = "\n") -> None:
        safe = text.encode(console.encoding, "backslashreplace").decode(console.encoding)
        console.print(safe, style=style, end=end)

    show(report.verdict, _STYLES[report.verdict], "  ")
    show(f"{plain(report.artifact.name or '')}  sha256 {report.sha256}")
    for row in report.as_document()["requirements"]:
        value, edge, asked, n = render.figures(row)
        show(f"  {row['outcome']:<12}", _STYLES[row["outcome"]], " ")
        show(f" {plain(row['name'])}: {value} ({edge}; asked {asked}; n {n})")
        if row["remark"] is not None:
            show(f"                {plain(row['remark'])}")


def _say(message: str, kind: str = "error") -> None:
    print(f"rlhf-tune: {kind}: {message}", file=sys.stderr)
