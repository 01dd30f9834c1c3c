"""`rlhf-tune recommend`, `explain` and `risk`: what a study in a storage shows."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlhf_tune.cli import storages
from rlhf_tune.errors import InvalidInputError

if TYPE_CHECKING:
    from optuna.study import Study

    from rlhf_tune.study.sampler import DQNSampler
    from rlhf_tune.tabled import Tabled

_HELP = {
    "recommend": """\
Say which trial of a study to use: of the trials that are complete, fully checked and feasible the
one with the best posterior mean, which is not the luckiest one. Works whoever sampled the study.
""",
    "explain": """\
List the candidate moves of the next trial, best first: what is expected of each, how likely it is
to keep all constraints, and why it is masked.
""",
    "risk": """\
List for each trial how likely it seemed to keep all constraints before it ran, and whether it did.
""",
}
_BRIEF = {
    "recommend": "which trial of a study to use",
    "explain": "what the next trial of a study could be, and why",
    "risk": "predicted beside observed violations of a study",
}
_EPILOG = """\
examples:
  rlhf-tune {command} --storage sqlite:///study.db --study mnist
  rlhf-tune {command} --storage sqlite:///study.db --study mnist --json
  rlhf-tune {command} --storage journal.log
                              a journal's file; the name may be left out of a single study
  rlhf-tune {command} --storage sqlite:///study.db --study mnist --role alpha=learning_rate
                              what a parameter is, where its name does not say so

exit status: 0 done; {more}2 bad usage, no such storage or study; 70 an error that nobody foresaw.
The storage is only read. In Python: rlhf_tune.{command}(study)
"""


def add_commands(subparsers: Any) -> None:
    """Add the three commands to those of the program."""
    for command, look in (("recommend", _recommend), ("explain", _explain), ("risk", _risk)):
        more = "1 no trial can be recommended; " if command == "recommend" else ""
        parser = subparsers.add_parser(
            command,
            help=_BRIEF[command],
            description=_HELP[command],
            epilog=_EPILOG.format(command=command, more=more),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        storages.add_arguments(parser)
        add = parser.add_argument
        add("--policy", default="default", help="a name or a file of rlhf-tune pretrain (default)")
        add(
            "--role",
            action="append",
            default=[],
            metavar="NAME=ROLE",
            help="learning_rate, batch_size or other (may be repeated)",
        )
        if command == "explain":
            add("--all", action="store_true", help="all candidates, not the best 20 alone")
        add("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=_run, look=look)


def _run(args: argparse.Namespace) -> int:
    from rlhf_tune.study.looking import agent_of

    study = storages.load_study(args.storage, args.study)
    agent = agent_of(study, policy=args.policy, roles=_roles(args.role), seed=0)
    look: Callable[[DQNSampler, Study], tuple[Tabled, Any]] = args.look
    found, plain = look(agent, study)
    if args.json:
        print(json.dumps(_plain(plain), indent=2, allow_nan=False))
        return 0
    table = found.table()
    print(table.to_text(rows=len(table.rows) if getattr(args, "all", False) else None))
    return 0


def _recommend(agent: DQNSampler, study: Study) -> tuple[Tabled, Any]:
    from dataclasses import asdict

    found = agent.recommendation(study)
    return found, asdict(found)


def _explain(agent: DQNSampler, study: Study) -> tuple[Tabled, Any]:
    from dataclasses import asdict

    found = agent.explain(study)
    return found, [asdict(candidate) for candidate in found]


def _risk(agent: DQNSampler, study: Study) -> tuple[Tabled, Any]:
    found = agent.risk(study)
    trials = zip(found.numbers.tolist(), found.p_safe.tolist(), found.safe.tolist(), strict=True)
    rows = [{"number": number, "p_safe": p, "safe": safe} for number, p, safe in trials]
    return found, {"trials": rows, "predicted": found.predicted, "observed": found.observed}


def _roles(given: list[str]) -> dict[str, str]:
    roles = {}
    for text in given:
        name, equals, role = text.rpartition("=")
        if not equals or not name:
            raise InvalidInputError(
                f"`--role` must be NAME=ROLE, such as alpha=learning_rate, but got {text!r}"
            )
        roles[name] = role
    return roles


def _plain(value: Any) -> Any:
    """Only what JSON has: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
