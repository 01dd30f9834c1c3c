"""`rlhf-tune doctor`: what is installed, what is not, and what is wrong."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, final

from rlhf_tune.cli import storages
from rlhf_tune.errors import InvalidInputError, plain
from rlhf_tune.foreign import shortened

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_NAME = "rlhf-tune"

_EPILOG = """\
examples:
  rlhf-tune doctor                                  versions, extras, devices, files, threads
  rlhf-tune doctor --storage sqlite:///study.db     can this storage be read, and what does it hold?
  rlhf-tune doctor --json                           for a bug report

exit status: 0 nothing is wrong (an extra that is not installed is not wrong); 1 something is;
2 bad usage.
"""


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: Of what it is.
        name: What was looked at.
        found: What it is.
        hint: What to do about it, where there is something to do.
        wrong: Whether it is broken.
    """

    part: str
    name: str
    found: str
    hint: str = ""
    wrong: bool = False


def add_commands(subparsers: Any) -> None:
    """Add the command to those of the program."""
    parser = subparsers.add_parser(
        "doctor",
        help="what is installed, what is not, and what is wrong",
        description="Say what is installed, what is not, and what is wrong; changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--storage", metavar="URL", help="also try this one; it is only read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status."""
    found = [*versions(), *extras(), *devices(), *policies(), *threads()]
    if args.storage is not None:
        found += storage(args.storage)
    if args.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        _show(found)
    return int(any(finding.wrong for finding in found))


def versions() -> Iterator[Finding]:
    """Of this package, Python, the system, and the libraries of the core."""
    yield Finding("versions", _NAME, _version(_NAME) or "not installed")
    yield Finding("versions", "python", f"{platform.python_version()}, {platform.platform()}")
    for name, wants in sorted(_requirements().get("", {}).items()):
        yield _library("versions", name, wants)


def extras() -> Iterator[Finding]:
    """Of each extra, which of its packages are there."""
    for extra, wanted in sorted(_requirements().items()):
        if not extra:
            continue
        findings = [_library(extra, name, wants) for name, wants in wanted.items()]
        missing = [each.name for each in findings if each.wrong]
        there = [f"{each.name} {each.found}" for each in findings if not each.wrong]
        found = f"missing: {', '.join(missing)}" if missing else ", ".join(there)
        hint = f"pip install '{_NAME}[{extra}]'" if missing else ""
        yield Finding("extras", extra, found, hint)


def devices() -> Iterator[Finding]:
    """What the installed frameworks can compute on."""
    from rlhf_tune.quiet import native_stderr_dropped

    for name, look in (("torch", _of_torch), ("tensorflow", _of_tensorflow)):
        if not (_version(name) or _version(f"{name}-cpu")):
            continue
        try:
            with native_stderr_dropped():
                found = look()
            yield Finding("devices", name, found)
        except Exception as exc:  # noqa: BLE001 - of whatever kind, it is what is to be found
            said = f"cannot be imported: {type(exc).__name__}: {shortened(exc)}"
            yield Finding("devices", name, said, f"pip install --force-reinstall {name}", True)


def policies() -> Iterator[Finding]:
    """The files of learned policies that come with the package, and their digests."""
    from rlhf_tune.tensors import SHIPPED, read_tensors

    for path in sorted(SHIPPED.parent.glob("*.safetensors")):
        try:
            arrays = len(read_tensors(path))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except (InvalidInputError, OSError) as exc:
            hint = f"pip install --force-reinstall {_NAME}"
            yield Finding("policies", path.name, f"cannot be read: {exc}", hint, True)
        else:
            size = path.stat().st_size / 1000
            yield Finding(
                "policies", path.name, f"{arrays} arrays, {size:.0f} kB, sha256 {digest[:16]}"
            )


def threads() -> Iterator[Finding]:
    """How many cores there are, and what limits the threads of libraries."""
    yield Finding("threads", "cores", str(os.cpu_count()))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            yield Finding("threads", name, os.environ[name])


def storage(url: str) -> Iterator[Finding]:
    """Whether a storage opens, and its studies."""
    shown = storages.shown(url)
    try:
        found = storages.opened(url)
        studies = found.get_all_studies()
        counts = [(s.study_name, found.get_n_trials(s._study_id)) for s in studies]
    except Exception as exc:  # noqa: BLE001 - of whatever kind, it is what is to be found
        yield Finding("storage", shown, f"cannot be read: {shortened(exc)}", wrong=True)
        return
    yield Finding("storage", shown, f"opens; {len(studies)} studies", _hint(url))
    for name, count in counts:
        yield Finding("storage", f"study {name}", f"{count} trials")


def _hint(url: str) -> str:
    """How to keep workers of this storage well."""
    if url.startswith("sqlite"):
        return "workers of one machine alone; for several, a server such as PostgreSQL"
    if "://" not in url:
        return ""
    return (
        "for workers: optuna.storages.RDBStorage(url, heartbeat_interval=60, grace_period=180, "
        'engine_kwargs={"pool_pre_ping": True}), so that dead workers and connections are noticed'
    )


def _requirements() -> dict[str, dict[str, Any]]:
    """By extra ("" is the core) and package: the versions that are asked for."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(_NAME) or []
        names = metadata.metadata(_NAME).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return {}
    wanted = [Requirement(line) for line in lines]

    def packages(extra: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in wanted:
            if _belongs(each, extra):
                inner = [packages(other) for other in each.extras] if each.name == _NAME else []
                for more in inner or [{each.name: each.specifier}]:
                    found |= more
        return found

    return {extra: packages(extra) for extra in ("", *names)}


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement is one of an extra; "" is the core."""
    marker = requirement.marker
    core = marker is None or marker.evaluate({"extra": ""})
    if core or marker is None:
        return not extra
    return marker.evaluate({"extra": extra})


def _library(part: str, name: str, wants: Any) -> Finding:
    version = _version(name)
    if version is None and name == "tensorflow":
        version = _version("tensorflow-cpu")
    if version is None:
        return Finding(part, name, "not installed", f"pip install {name}", True)
    if not wants.contains(version, prereleases=True):
        found = f"{version}, but {wants} is needed"
        return Finding(part, name, found, f"pip install '{name}{wants}'", True)
    return Finding(part, name, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _of_torch() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        gpus.append("mps")
    return f"{torch.__version__}: {', '.join(['cpu', *gpus])}; {torch.get_num_threads()} threads"


def _of_tensorflow() -> str:
    import tensorflow as tf

    names = ", ".join(device.name for device in tf.config.list_physical_devices())
    return f"{tf.__version__}: {names}"


def _show(found: list[Finding]) -> None:
    from rlhf_tune.tables import Table

    parts: dict[str, list[Finding]] = {}
    for finding in found:
        parts.setdefault(finding.part, []).append(finding)
    for part, findings in parts.items():
        rows = [(each.name, each.found, _marked(each)) for each in findings]
        table = Table((part, "found", "what to do"), rows)
        print(f"{table.to_text(rows=len(rows))}\n")
    wrong = [plain(finding.name) for finding in found if finding.wrong]
    print(f"wrong: {', '.join(wrong)}" if wrong else "nothing is wrong")


def _marked(finding: Finding) -> str:
    return f"WRONG {finding.hint}".strip() if finding.wrong else finding.hint
