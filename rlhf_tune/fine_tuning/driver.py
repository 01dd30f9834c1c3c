"""`fine_tune`, whatever the framework: a trainer, a budget and a policy make a `FineTuned`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.groups import GroupsLike
from rlhf_tune.fine_tuning.operations import OPERATIONS, RETURN, GroupTrainer
from rlhf_tune.fine_tuning.policies import Agent, Episode, play, search, shipped
from rlhf_tune.fine_tuning.process import FineTuning
from rlhf_tune.fine_tuning.result import FineTuned, costs, kept
from rlhf_tune.progress import bars
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.measurement import Constraint

STRETCHES = 5
"""Decisions that a full fine-tuning is divided into."""

POLICIES = ("default", "search", "dqn")
KNOWN = (*OPERATIONS, RETURN)


def drive(
    trainer: Trainer[Any],
    groups: GroupsLike,
    *,
    epochs: float,
    budget: float,
    constraints: Sequence[Constraint] = (),
    policy: str | Agent = "default",
    monitor: str | None = None,
    mode: ModeName = "auto",
    verbose: int = 1,
) -> FineTuned:
    """Fine-tune the model of a trainer.

    Args:
        trainer: At the learning rate to be used.
        groups: See `rlhf_tune.fine_tuning.describe_groups`.
        epochs: Of one full fine-tuning.
        budget: In full fine-tunings.
        constraints: What the model handed back must satisfy.
        policy: "default", "search", "dqn", or an agent with `act(observation, mask)` that learned
            in `FineTuningEnv` with `operations=KNOWN`.
        monitor: The validation metric by which states are compared.
        mode: Whether less of it is better.
        verbose: 0 shows no progress.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        CannotCertify: If no state satisfied the constraints; `best` is the model.
    """
    for name, value in {"epochs": epochs, "budget": budget}.items():
        if not 0 < value < math.inf:
            raise InvalidInputError(f"`{name}` must be above 0 and finite, but got {value}")
    if isinstance(policy, str) and policy not in POLICIES:
        raise InvalidInputError(f"`policy` must be one of {POLICIES}, but got {policy!r}")
    tuning = FineTuning(
        GroupTrainer(trainer, groups, KNOWN),
        KNOWN,
        steps=max(1, round(budget * STRETCHES)),
        stretch=max(1, round(epochs * trainer.steps_per_epoch / STRETCHES)),
        constraints=constraints,
        monitor=monitor,
        mode=mode,
    )
    episodes = _episodes(tuning, policy, verbose)
    best = episodes[-1]
    tuning.run = best.run
    start = best.run.validation[tuning.monitor]
    found = {e.plan: _metric(e, tuning.monitor) for e in episodes if e.plan}
    return FineTuned(
        model=tuning.hand_back(),
        schedule=best.record,
        costs=costs(episodes, epochs),
        kept=kept(best),
        tried=found,
        monitor=tuning.monitor,
        start=start,
    )


def _episodes(tuning: FineTuning, policy: str | Agent, verbose: int) -> list[Episode]:
    """What was tried, the best last."""
    from rich.console import Console

    with bars(Console(stderr=True, quiet=not verbose)) as shown:
        task = shown.add_task("fine-tuning", total=tuning.steps)

        def listen(_: object) -> None:
            shown.advance(task)

        if policy in ("default", "search"):
            return search(tuning, listen)
        agent = shipped(tuple(o.name for o in KNOWN)) if isinstance(policy, str) else policy
        return [play(tuning, agent, listen)]


def _metric(episode: Episode, monitor: str) -> float:
    best = episode.run.best.stretch
    return (episode.run.validation if best is None else best.validation)[monitor]
