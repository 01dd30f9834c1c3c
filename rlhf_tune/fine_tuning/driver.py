"""`fine_tune`, whatever the framework: a trainer, a budget and a policy make a `FineTuned`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rlhf_tune.errors import DivergedError, InvalidInputError
from rlhf_tune.fine_tuning.groups import GroupsLike
from rlhf_tune.fine_tuning.operations import OPERATIONS, RATED, RETURN, GroupTrainer
from rlhf_tune.fine_tuning.policies import Agent, Episode, episode_of, play, search, shipped
from rlhf_tune.fine_tuning.process import FineTuning, Tuned
from rlhf_tune.fine_tuning.result import FineTuned, costs, kept
from rlhf_tune.progress import bars
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.measurement import Constraint

STRETCHES = 5
"""Decisions that a full fine-tuning is divided into."""

_SEARCHES = ("default", "search")
POLICIES = (*_SEARCHES, "dqn")
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
        budget: In full fine-tunings; an epoch counts by the share of the weights that it trains.
        constraints: What the model handed back must satisfy.
        policy: "default" (as "search"), "search", "dqn", or an agent with `act(observation, mask)`
            that learned in `FineTuningEnv` with `operations=KNOWN`.
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
    operations = RATED if policy in _SEARCHES else KNOWN
    tuning = FineTuning(
        GroupTrainer(trainer, groups, operations),
        operations,
        steps=max(1, round(budget * STRETCHES)),
        stretch=max(1, round(epochs * trainer.steps_per_epoch / STRETCHES)),
        constraints=constraints,
        monitor=monitor,
        mode=mode,
    )
    tuning.begin()
    episodes, interrupted = _episodes(tuning, policy, verbose)
    best = episodes[-1]
    _check_some_were_finite(episodes, tuning)
    return FineTuned(
        model=tuning.hand_back(),
        schedule=best.record,
        costs=costs(episodes, epochs),
        kept=kept(best.record, tuning.run),
        tried={episode.plan: episode.metric for episode in episodes if episode.plan},
        monitor=tuning.monitor,
        start=tuning.run.validation[tuning.monitor],
        interrupted=interrupted,
    )


def _episodes(tuning: FineTuning, policy: str | Agent, verbose: int) -> tuple[list[Episode], bool]:
    """What was tried, the best last, and whether Ctrl-C ended it.

    The run of the best is in hand then; an error leaves the model at its best. The states of the
    others are let go of on the way.
    """
    episodes: list[Episode] = []
    interrupted = False
    try:
        for episode in _played(tuning, policy, verbose):
            _add(episodes, episode)
    except KeyboardInterrupt:
        interrupted = True
        _add(episodes, episode_of(tuning))
    except BaseException:
        _add(episodes, episode_of(tuning))
        _run_of(episodes[-1]).go_back()
        raise
    tuning.run = _run_of(episodes[-1])
    return episodes, interrupted


def _add(episodes: list[Episode], episode: Episode) -> None:
    """Keep the best one last, and the run of that alone."""
    if episodes and episodes[-1].worth >= episode.worth:
        episodes.insert(0, replace(episode, run=None))
        return
    episodes[:] = [*(replace(each, run=None) for each in episodes), episode]


def _run_of(episode: Episode) -> GuardedRun:
    assert episode.run is not None  # noqa: S101 - the last one's is kept
    return episode.run


def _played(tuning: FineTuning, policy: str | Agent, verbose: int) -> Iterator[Episode]:
    """Episode by episode, under a bar."""
    from rich.console import Console

    with bars(Console(stderr=True, quiet=not verbose)) as shown:
        searched = policy in _SEARCHES
        task = shown.add_task(
            "fine-tuning", total=tuning.steps * (tuning.stretch if searched else 1)
        )

        def listen(tuned: Tuned) -> None:
            steps = tuned.epochs * tuned.share * tuning.trainer.steps_per_epoch
            shown.advance(task, steps if searched else 1)

        if searched:
            yield from search(tuning, listen)
            return
        agent = shipped(tuple(o.name for o in KNOWN)) if isinstance(policy, str) else policy
        yield play(tuning, agent, listen)


def _check_some_were_finite(episodes: Sequence[Episode], tuning: FineTuning) -> None:
    """That all training diverged is not passed over in silence.

    Raises:
        DivergedError: If it did.
    """
    trained = [each for episode in episodes for each in episode.record if each.epochs]
    if not trained or any(each.verdict != "diverged" for each in trained):
        return
    tuning.run.go_back()
    tuning.run.check_rate_is_at_fault(2 * tuning.trainer.steps_per_epoch)
    raise DivergedError(
        f"training must stay finite, but diverged in every group at the learning rate "
        f"{tuning.trainer.hyperparameters['learning_rate']:.3g}, and not at a tiny one; give the "
        f"optimizer a smaller rate"
    )
