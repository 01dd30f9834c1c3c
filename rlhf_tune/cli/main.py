"""The command line: ``rlhf-tune``."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence

from rlhf_tune.cli import compare, demo, doctor, gate, look, pretrain
from rlhf_tune.errors import UNFORESEEN, CannotCertify, RlhfTuneError, sentence

_EPILOG = """\
examples:
  rlhf-tune demo                                             see it work, in a minute or two
  rlhf-tune recommend --storage sqlite:///study.db           which trial of a study to use
  rlhf-tune gate model.keras --data holdout.npz --eps 0.05 --min-robust-accuracy 0.75
                                                             may this model be released?
  rlhf-tune doctor                                           what is installed, and what is not

rlhf-tune COMMAND --help has examples of each.
"""


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
        except CannotCertify as exc:
            print(f"rlhf-tune: {sentence(exc)}", file=sys.stderr)
            return 1
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
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (demo, look, gate, pretrain, compare, doctor):
        module.add_commands(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version that is installed; looked up only where it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"rlhf-tune {version('rlhf-tune')}")
        parser.exit()


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in our code that gave it."""
    print(f"rlhf-tune: warning: {message}", file=sys.stderr)
