"""The arguments of ``rlhf-tune gate`` and ``rlhf-tune verify``."""

from __future__ import annotations

import argparse
from typing import Any

_GATE_HELP = """\
Decide whether a model's file may be released: measure it on held-out samples, under attack, and
compare exact confidence bounds with what is asked. The verdict is bound to the file's hash.

Every option can stand in a TOML file beside the model's code, with underscores:

  data = "holdout.npz"            # relative to the file's folder
  eps = 0.05
  min_robust_accuracy = 0.75

Options take precedence over the file.
"""

_GATE_EXAMPLES = """\
examples:
  rlhf-tune gate model.keras --data holdout.npz --eps 0.05 --min-robust-accuracy 0.75
  rlhf-tune gate model.keras --spec gate.toml --report gate.json --junit gate.xml --markdown gate.md
  rlhf-tune gate weights.safetensors --factory shop.models:build --spec gate.toml
                                   weights alone: the function, your code, builds the model
  rlhf-tune gate new.keras --spec gate.toml --baseline old.keras --margin 0.02
                                   at most two points of robust accuracy lost, on the same samples

exit status: 0 pass; 1 refused; 2 bad usage, data or spec; 3 the evidence cannot be trusted, or
there is too little of it; 4 the model's file is unsafe or unreadable; 130 interrupted.
Anything unforeseen is 3. Only 0 is a pass.
"""

_VERIFY_EXAMPLES = """\
example:
  rlhf-tune verify model.keras --report gate.json && deploy model.keras

exit status: 0 this is the file that passed; 1 it is another file, or did not pass; 2 there is no
such report; 3 the report was edited; 4 the model's file cannot be read.
The digest tells an edited report, not a forged one: sign the report for that (docs/gate.md).
"""


def add_commands(commands: Any) -> None:
    """Add the two commands to those of the program."""
    raw = argparse.RawDescriptionHelpFormatter
    gate = commands.add_parser(
        "gate",
        help="decide whether a model's file may be released",
        description=_GATE_HELP,
        epilog=_GATE_EXAMPLES,
        formatter_class=raw,
        argument_default=argparse.SUPPRESS,
    )
    gate.add_argument("model", metavar="MODEL", help=".keras, .safetensors, .pt, .pth or .pt2")
    gate.add_argument("--spec", metavar="FILE.toml", default=None, help="what to ask, as a file")
    _add_evidence(gate.add_argument_group("evidence").add_argument)
    _add_requirements(gate.add_argument_group("requirements").add_argument)
    _add_outputs(gate.add_argument_group("output").add_argument)
    gate.set_defaults(run=_gate, quiet=False, json=False)

    verify = commands.add_parser(
        "verify",
        help="say whether a file is the one that passed the gate",
        description="Say whether a model's file is the very one that a report says passed.",
        epilog=_VERIFY_EXAMPLES,
        formatter_class=raw,
    )
    verify.add_argument("model", metavar="MODEL", help="the file that is about to be shipped")
    verify.add_argument("--report", metavar="R.json", required=True, help="by rlhf-tune gate")
    verify.add_argument("--quiet", action="store_true", help="show errors alone")
    verify.add_argument("--json", action="store_true", help="print the finding as JSON")
    verify.set_defaults(run=_verify)


def _add_evidence(add: Any) -> None:
    add("--data", metavar="FILE.npz", help="held-out samples: arrays x, y and, if wanted, groups")
    add("--bounds", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of x; default: 0 1")
    add(
        "--groups",
        nargs="+",
        metavar="NAME",
        help="arrays of FILE.npz whose every group must keep the floors; default: groups, if there",
    )
    add("--members", metavar="FILE.npz", help="samples of the training set, for --max-leakage")
    add("--baseline", metavar="OLD_MODEL", help="the model not to fall behind; needs --margin")
    add(
        "--factory",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="builds the model for a file of weights alone; the only way that your code runs",
    )
    add("--baseline-factory", metavar="...", help="the same for OLD_MODEL; default: --factory")
    add("--max-samples", type=int, metavar="N", help="measure on N samples chosen by --seed")
    add("--seed", type=int, metavar="N", help="of that choice and of random starts; default: 0")


def _add_requirements(add: Any) -> None:
    add("--eps", type=float, metavar="E", help="radius of the attacks (Linf), in units of x")
    add("--min-robust-accuracy", type=float, metavar="A", help="floor under the worst attack")
    add("--min-accuracy", type=float, metavar="A", help="floor without attack")
    add("--max-leakage", type=float, metavar="L", help="ceiling of the membership leakage")
    add("--margin", type=float, metavar="D", help="robust accuracy that may be lost to OLD_MODEL")
    add(
        "--confidence",
        type=float,
        metavar="P",
        help="of the one-sided bounds that decide; default: 0.95",
    )
    add(
        "--attack",
        type=lambda text: text.split(","),
        metavar="A,B",
        help="curves of the sweep, of noise, fgsm and pgd; the verdict counts all three anyway",
    )
    add("--sweep", type=float, nargs="+", metavar="E", help="radii of the sweep, for the curve")


def _add_outputs(add: Any) -> None:
    add("--report", metavar="R.json", help="the report, which verify reads")
    add("--junit", metavar="R.xml", help="JUnit XML, a case for each requirement")
    add("--markdown", metavar="R.md", help="Markdown for a pull request, with R.png beside it")
    add("--json", action="store_true", help="print the report on standard output")
    add("--quiet", action="store_true", help="show errors alone")


def _gate(args: argparse.Namespace) -> int:
    from rlhf_tune.gate import command

    options = dict(vars(args))
    model, spec = options.pop("model"), options.pop("spec")
    quiet, as_json = options.pop("quiet"), options.pop("json")
    del options["run"]
    return command.gate(model, spec, options, quiet=quiet, as_json=as_json)


def _verify(args: argparse.Namespace) -> int:
    from rlhf_tune.gate import command

    return command.verify_file(args.model, args.report, quiet=args.quiet, as_json=args.json)
