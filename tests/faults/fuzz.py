"""Coverage-guided fuzzing of the parsers of specs, reports, samples and policies, by atheris.

    python -m tests.faults.fuzz --runs 10000

Each parser is fuzzed in a process of its own, and its modules are instrumented as they are
imported; the status is 1 where an error that is not ours came out. It needs: pip install atheris.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

INSTRUMENTED = ["rlhf_tune", "json", "tomllib", "zipfile", "csv"]


class Surface(NamedTuple):
    """Where a parser is, how it is asked, and what mutations begin with."""

    suffix: str
    module: str
    parse: Callable[[Any, Path], object]
    seed: bytes


def _spec(spec: Any, path: Path) -> object:
    return spec.of_values(spec.gather(path, {}))


def _report(verify: Any, path: Path) -> None:
    finding = verify.verify(__file__, path)  # any file
    assert finding.exit_code != 0, "what nobody made is no pass"


def _npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, x=np.zeros((4, 2)), y=np.arange(4) % 2)
    return content.getvalue()


def _policy() -> bytes:
    from safetensors.numpy import save

    return save({"performance.surfaces": np.zeros((1, 2, 2), np.float32)}, {"studies": "a"})


def surfaces() -> dict[str, Surface]:
    """What is fuzzed."""
    spec = b'data = "d.npz"\neps = 0.1\nmin_robust_accuracy = 0.7\nsweep = [0.0, 0.1]\n'
    report = b'{"schema": "rlhf-tune/gate-report/2", "artifact": {"sha256": "0"}, "digest": "1"}'
    judged = "rlhf_tune.feedback.judgements"
    lines, table = b'{"preferred": 1, "rejected": 2}\n', b"preferred,rejected\n1,2\n"
    return {
        "specs": Surface(".toml", "rlhf_tune.gate.spec", _spec, spec),
        "reports": Surface(".json", "rlhf_tune.gate.verify", _report, report),
        "samples": Surface(
            ".npz", "rlhf_tune.gate.npz", lambda m, path: m.load(path, bounds=(0.0, 1.0)), _npz()
        ),
        "policies": Surface(
            ".safetensors", "rlhf_tune.study.prior", lambda m, path: m.load(path), _policy()
        ),
        "judgements": Surface(".jsonl", judged, lambda m, path: m.load(path), lines),
        "tables of judgements": Surface(".csv", judged, lambda m, path: m.load(path), table),
    }


def fuzz(name: str, runs: int) -> None:
    """Fuzz one parser in this process, which atheris ends."""
    import atheris

    surface = surfaces()[name]
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = importlib.import_module(surface.module)
        errors = importlib.import_module("rlhf_tune.errors")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "seed").write_bytes(surface.seed)
    path = folder.with_suffix(surface.suffix)

    def once(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(errors.RlhfTuneError):
            surface.parse(module, path)

    atheris.Setup([sys.argv[0], f"-runs={runs}", "-verbosity=0", str(folder)], once)
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="of each parser (%(default)s)")
    parser.add_argument("--only", choices=surfaces(), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.only:
        fuzz(args.only, args.runs)
    failed = 0
    for name in surfaces():
        words = [sys.executable, "-m", "tests.faults.fuzz", "--runs", str(args.runs)]
        run = subprocess.run([*words, "--only", name], capture_output=True, text=True, check=False)
        failed += run.returncode != 0
        what = "an error that is not ours" if run.returncode else "no error that is not ours"
        print(f"{name}: {args.runs} inputs, {what}")
        print(run.stderr[-3000:] if run.returncode else "", end="")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
