"""`fine_tune`, whatever the framework: a trainer, a budget and a policy make a `FineTuned`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_tune.errors import DivergedError, InvalidInputError
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
        DivergedError: If all training diverged; the message names the cause.
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
    episodes, interrupted = _episodes(tuning, policy, verbose)
    best = max(episodes, key=lambda episode: episode.worth)
    tuning.run = best.run
    _check_some_were_finite(episodes, best, trainer)
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
        interrupted=interrupted,
    )


def _episodes(tuning: FineTuning, policy: str | Agent, verbose: int) -> tuple[list[Episode], bool]:
    """What was tried, and whether Ctrl-C ended it; an error leaves the model at its best."""
    tuning.begin()
    episodes: list[Episode] = []
    try:
        episodes.extend(_played(tuning, policy, verbose))  # those before an interrupt stay
    except KeyboardInterrupt:
        return [*episodes, Episode(list(tuning.record), tuning.run)], True
    except BaseException:
        every = [*episodes, Episode(list(tuning.record), tuning.run)]
        max(every, key=lambda episode: episode.worth).run.go_back()
        raise
    return episodes, False


def _played(tuning: FineTuning, policy: str | Agent, verbose: int) -> Iterator[Episode]:
    """Episode by episode, under a bar."""
    from rich.console import Console

    with bars(Console(stderr=True, quiet=not verbose)) as shown:
        task = shown.add_task("fine-tuning", total=tuning.steps)

        def listen(_: object) -> None:
            shown.advance(task)

        if policy in ("default", "search"):
            yield from search(tuning, listen)
            return
        agent = shipped(tuple(o.name for o in KNOWN)) if isinstance(policy, str) else policy
        yield play(tuning, agent, listen)


def _check_some_were_finite(
    episodes: Sequence[Episode], best: Episode, trainer: Trainer[Any]
) -> None:
    """Nothing that was tried may all have diverged without a word."""
    every = [stretch for episode in episodes for stretch in episode.run.record]
    if not every or any(stretch.verdict != "diverged" for stretch in every):
        return
    best.run.go_back()
    best.run.check_rate_is_at_fault(2 * trainer.steps_per_epoch)
    rate = max(stretch.learning_rate for stretch in every)
    raise DivergedError(
        f"training must stay finite, but diverged in every group at learning rates up to "
        f"{rate:.3g}, and not at a tiny one; give the optimizer a smaller rate"
    )


def _metric(episode: Episode, monitor: str) -> float:
    best = episode.run.best.stretch
    return (episode.run.validation if best is None else best.validation)[monitor]
