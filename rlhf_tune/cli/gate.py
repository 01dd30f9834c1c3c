"""The arguments of ``rlhf-tune gate`` and ``rlhf-tune verify``."""

from __future__ import annotations

import argparse
from typing import Any

from rlhf_tune.gate.spec import known_rows

_GATE_HELP = """\
Decide whether a model's file may be released: measure it on held-out samples, under attack, and
compare exact one-sided confidence bounds with what is asked. The verdict is bound to the file's
hash.

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
  rlhf-tune gate model.keras --factory shop.models:build --spec gate.toml
                                   layers of your own: so does it here, with the file's weights
  rlhf-tune gate model.pt2 --data x.npy --labels y.npy --eps 8/255 --min-robust-accuracy 0.7
  rlhf-tune gate new.keras --spec gate.toml --baseline old.keras --margin 0.02
                                   at most two points of robust accuracy lost, on the same samples

exit status: 0 pass; 1 refused; 2 bad usage, data or spec; 3 untrusted (the evidence contradicts
itself) or inconclusive (there is too little of it); 4 the model's file is unsafe or unreadable;
70 an error that nobody foresaw (RLHF_TUNE_DEBUG=1 shows its traceback); 130 interrupted. Only 0
is a pass.
"""

_MODEL = ".keras, .weights.h5, .safetensors, .pt, .pth, .ckpt, .bin or .pt2"

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
    gate.add_argument("model", metavar="MODEL", help=_MODEL)
    gate.add_argument("--spec", metavar="FILE.toml", default=None, help="what to ask, as a file")
    groups = {
        name: gate.add_argument_group(name) for name in ("evidence", "requirements", "output")
    }
    for row in known_rows():
        option = f"--{row.name.replace('_', '-')}"
        add = groups[row.group].add_argument
        add(option, metavar=row.metavar, help=row.help, **row.kind.option)
    groups["output"].add_argument(
        "--json", action="store_true", help="print the report on standard output"
    )
    groups["output"].add_argument("--quiet", action="store_true", help="show errors alone")
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
