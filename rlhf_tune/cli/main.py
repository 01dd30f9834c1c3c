"""The command line: ``rlhf-tune``."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence

from rlhf_tune.cli import compare, demo, gate, note, pretrain
from rlhf_tune.errors import UNFORESEEN, RlhfTuneError, sentence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is described in its help.

    Args:
        argv: The arguments without the program's name; those of the process by default.

    Raises:
        SystemExit: After `--help`, or on arguments that cannot be parsed (status 2).
    """
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(given)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return int(args.run(args))
        except RlhfTuneError as exc:
            print(f"rlhf-tune: error: {sentence(exc)}", file=sys.stderr)
            return 2
        except Exception as exc:  # noqa: BLE001 - status 1 would be a verdict
            print(f"rlhf-tune: error: {sentence(exc)}", file=sys.stderr)
            return UNFORESEEN
        except KeyboardInterrupt:
            again = shlex.join(["rlhf-tune", *(word for word in given if word != "--fresh")])
            print(f"\nrlhf-tune: interrupted; to go on, run: {again}", file=sys.stderr)
            return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlhf-tune",
        description="Tune hyperparameters by a reinforcement-learning agent, under constraints.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (demo, gate, pretrain, compare, note):
        module.add_commands(commands)
    return parser


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in our code that gave it."""
    print(f"rlhf-tune: warning: {message}", file=sys.stderr)
