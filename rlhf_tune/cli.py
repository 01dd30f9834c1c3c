"""The command line: ``rlhf-tune``."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rlhf_tune import cli_gate, cli_pretrain
from rlhf_tune.demo.settings import Settings
from rlhf_tune.errors import RlhfTuneError

_EXAMPLES = """\
examples:
  rlhf-tune demo                             20 trials on handwritten digits with Keras
  rlhf-tune demo --framework torch           the same with PyTorch, in a minute
  rlhf-tune demo --trials 30                 the same run, ten trials longer
  rlhf-tune demo --fresh --eps 0.1 --min-robust-accuracy 0.4
                                             from the start, under a stronger attack
  rlhf-tune demo --data mnist.npz --name mnist
                                             your own images, as x_train, y_train, x_test, y_test

Ctrl-C stops a run; the same command goes on where it stopped. The run is an Optuna study, so
`optuna-dashboard sqlite:///runs/demo/study.db` shows it too.

exit status: 0 the recommended setting keeps the floor on held-out images; 1 it does not, or no
setting does; 2 bad usage, data or settings; 130 interrupted
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
        except RlhfTuneError as exc:
            print(f"rlhf-tune: error: {exc}", file=sys.stderr)
            return 2
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
    demo = commands.add_parser(
        "demo",
        help="tune a small network on handwritten digits under an FGSM constraint",
        description=(
            "Tune learning rate and batch size of a small convolutional network so that its "
            "validation loss is low and its accuracy under the FGSM attack (CleverHans) stays "
            "above a floor; retrain the recommended setting, measure it on held-out images, and "
            "write summary, picture and model to RUNS_DIR/NAME/."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_demo_arguments(demo)
    cli_gate.add_commands(commands)
    cli_pretrain.add_command(commands)
    return parser


def _add_demo_arguments(demo: argparse.ArgumentParser) -> None:
    default = Settings()
    add = demo.add_argument
    add("--framework", choices=("keras", "torch"), help="default: %(default)s")
    add("--data", metavar="FILE.npz", help="images in the layout of MNIST's npz; default: digits")
    add("--trials", type=int, metavar="N", help="trials in total; default: %(default)s")
    add("--epochs", type=int, metavar="N", help="of each training; default: %(default)s")
    add(
        "--eps",
        type=float,
        metavar="E",
        help="radius of the attack, in units of the images, which span 0..1; default: %(default)s",
    )
    add(
        "--min-robust-accuracy",
        type=float,
        metavar="A",
        help="floor of the accuracy under attack, a fraction; default: %(default)s",
    )
    add(
        "--max-train",
        type=int,
        metavar="N",
        help="cut a larger training set to N images; default: %(default)s",
    )
    add("--name", help="of the run, and of its folder; default: %(default)s")
    add("--runs-dir", type=Path, metavar="DIR", help="where runs are kept; default: %(default)s")
    add("--seed", type=int, metavar="N", help="of everything random; default: %(default)s")
    add("--fresh", action="store_true", help="start anew: delete this run's own files first")
    demo.set_defaults(run=_demo, **vars(default))


def _demo(args: argparse.Namespace) -> int:
    from rich.console import Console

    from rlhf_tune.demo import job  # imports Optuna

    options = {field.name: getattr(args, field.name) for field in fields(Settings)}
    satisfied = job.run(Settings(**options), Console(), fresh=args.fresh)
    return 0 if satisfied else 1


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in our code that gave it."""
    print(f"rlhf-tune: warning: {message}", file=sys.stderr)
