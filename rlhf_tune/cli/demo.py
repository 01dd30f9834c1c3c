"""The arguments of ``rlhf-tune demo``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlhf_tune.demo.settings import Settings

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
setting does; 2 bad usage, data or settings; 70 an error that nobody foresaw; 130 interrupted
"""


def add_commands(commands: Any) -> None:
    """Add the command to those of the program."""
    demo = commands.add_parser(
        "demo",
        help="tune a small network on handwritten digits under an FGSM constraint",
        description=(
            "Tune learning rate and batch size of a small convolutional network so that its "
            "validation loss is low and its accuracy under the FGSM attack stays "
            "above a floor; retrain the recommended setting, measure it on held-out images, and "
            "write summary, picture and model to RUNS_DIR/NAME/."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
