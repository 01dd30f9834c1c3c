"""`rlhf-tune pretrain`: learn a policy from your own studies, or from recorded tasks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlhf_tune.cli import storages
from rlhf_tune.errors import InvalidInputError

_EPILOG = """\
examples:
  rlhf-tune pretrain --storage sqlite:///team.db -o policy.safetensors
      what your team's studies found, in: DQNSampler(policy="policy.safetensors")
  rlhf-tune pretrain --storage sqlite:///team.db --study resnet --study vit -o vision.safetensors
  rlhf-tune pretrain --tables benchmarks/tables -o rlhf_tune/pretrained/prior.safetensors
      the prior that the package ships, from its source tree; add --network qmap.safetensors to
      train the Q-networks too (some minutes; interrupt and repeat the command to go on)
"""


def add_commands(subparsers: Any) -> None:
    """Add the command to those of the program."""
    parser = subparsers.add_parser(
        "pretrain",
        help="learn a policy from earlier studies",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--storage", metavar="URL", help="an Optuna storage; it is only read")
    source.add_argument("--tables", type=Path, metavar="FOLDER", help="recorded tasks")
    parser.add_argument(
        "--study", action="append", metavar="NAME", help="only this study (may be repeated)"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the policy")
    parser.add_argument("--network", type=Path, metavar="FILE", help="also train Q-networks")
    parser.add_argument("--networks", type=int, default=5, help="in the ensemble (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of the networks (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the networks (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that simulate (%(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status.

    Raises:
        InvalidInputError: If there is nothing to learn from.
    """
    if args.network and not args.tables:
        raise InvalidInputError("`--network` learns from whole surfaces; give `--tables` with it")
    if args.study and not args.storage:
        raise InvalidInputError("`--study` names a study of `--storage`; give both")
    if not args.out.parent.is_dir():
        raise InvalidInputError(f"`-o` must lie in a folder that exists, but got {args.out}")
    return _from_tables(args) if args.tables else _from_studies(args)


def _from_studies(args: argparse.Namespace) -> int:
    from rlhf_tune.pretraining.studies import read_study, update
    from rlhf_tune.study.prior import load, save
    from rlhf_tune.tensors import SHIPPED

    priors = load(SHIPPED)
    past = [read_study(study, priors["performance"]) for study in _studies(args)]
    for study in past:
        why = study.why_not and f", left out: {study.why_not}"
        print(f"{study.name}: {study.trials} trials{why}")
    updated = update(priors["performance"], past)
    names = " ".join(study.name for study in past if not study.why_not)
    save(priors | {"performance": updated}, args.out, {"studies": names})
    print(f'wrote {args.out}; use it as DQNSampler(policy="{args.out}")')
    return 0


def _studies(args: argparse.Namespace) -> list[Any]:
    import optuna

    storage = storages.opened(args.storage)
    known = storages.study_names(storage)
    unknown = sorted(set(args.study or ()) - set(known))
    if unknown:
        raise InvalidInputError(
            f"`--study` must name a study of the storage, but got {unknown}; it holds {known}"
        )
    return [optuna.load_study(study_name=name, storage=storage) for name in args.study or known]


def _from_tables(args: argparse.Namespace) -> int:
    from rlhf_tune.pretraining.priors import gaussian, listed
    from rlhf_tune.pretraining.tables import read_tables
    from rlhf_tune.study.prior import save

    tasks = read_tables(args.tables)
    families = sorted({task.family for task in tasks["performance"]})
    count = len(tasks["performance"])
    about = {"tasks": str(count), "families": " ".join(families)}
    priors = {
        "performance": listed(tasks["performance"]),
        "robustness": gaussian(tasks["robustness"]),
    }
    save(priors, args.out, about)
    print(f"{count} tasks of {len(families)} families: {args.out}")
    if args.network:
        _train(args, tasks["performance"], about)
        print(f"Q-networks: {args.network}")
    return 0


def _train(args: argparse.Namespace, tasks: Any, about: dict[str, str]) -> None:
    from rlhf_tune.pretraining.network import train
    from rlhf_tune.progress import bars
    from rlhf_tune.study.dqn_residual import save_qmap

    with bars(counted="{task.percentage:.0f} %") as shown:
        bar = shown.add_task("", total=1.0)
        network = train(
            tasks,
            rounds=args.rounds,
            networks=args.networks,
            seed=args.seed,
            checkpoint=args.network.with_name(args.network.name + ".checkpoints"),
            processes=args.processes,
            progress=lambda what, share: shown.update(bar, description=what, completed=share),
        )
    save_qmap(network, args.network, about | {"seed": str(args.seed), "rounds": str(args.rounds)})
