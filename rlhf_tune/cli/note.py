"""`rlhf-tune note`: write what is recommended of a study where optuna-dashboard shows it."""

from __future__ import annotations

import argparse
from typing import Any

from rlhf_tune.cli import storages

_HELP = """\
Write what is recommended of a study, and the constraints of its trials, where optuna-dashboard
shows them: as notes, and as the study's attribute `recommended`. The dashboard knows no
constraints: of a study with violations it calls the best value the best trial, violating or not.

Notes that somebody else wrote are left as they are. Attributes of trials (move, p_safe,
constraint NAME) must be written while the trials run: wrap the objective,

  study.optimize(rlhf_tune.dashboard_attributes(objective), callbacks=[rlhf_tune.dashboard_note])
"""

_EPILOG = """\
example:
  rlhf-tune note --study mnist --storage sqlite:///mnist.db
  optuna-dashboard sqlite:///mnist.db

exit status: 0 written; 2 no such study; 70 an error that nobody foresaw.
"""


def add_commands(subparsers: Any) -> None:
    """Add the command to those of the program."""
    parser = subparsers.add_parser(
        "note",
        help="write notes on a study for optuna-dashboard",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--study", metavar="NAME", required=True, help="its name in the storage")
    parser.add_argument(
        "--storage", metavar="URL", required=True, help="an Optuna storage: sqlite:///mnist.db"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status.

    Raises:
        InvalidInputError: If the study cannot be read, or has no single measured objective.
    """
    from rlhf_tune.errors import plain
    from rlhf_tune.study.dashboard import RECOMMENDED, dashboard_note

    study = storages.load_to_write(args.storage, args.study)
    dashboard_note(study)
    found = study.user_attrs[RECOMMENDED]
    said = found if isinstance(found, str) else f"trial {found['trial']}: {found['params']}"
    print(f"recommended: {plain(said)}")
    return 0
