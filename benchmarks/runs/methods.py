"""Ways to set the learning rate within one training run, at equal gradient steps.

Each takes the problem, the rate that a user begins with (some ignore it) and a seed, trains no more
than `Posed.steps` steps, probes and whatever is thrown away included, and hands back the state
with the best validation loss, at which it looks every `Posed.stretch` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.runs.problems import Posed
from rlhf_tune.envs import Trainer
from rlhf_tune.errors import DivergedError, require
from rlhf_tune.run.driver import History, Run
from rlhf_tune.run.policies import POLICIES, RunPolicy
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.pytorch import TorchTrainer

_POPULATION = 4
_SWEEP_SHARE = 10  # one part in so many of the budget goes to a learning-rate finder

WITHOUT_TEST = replace(POLICIES["default"], range_test=False)
"""Our default from the rate that it is given."""

Schedule = Callable[[float], float]


class _Best:
    """Keeps the best state of a run that is driven otherwise.

    Attributes:
        loss: Its validation loss.
    """

    def __init__(self, trainer: TorchTrainer) -> None:
        self.loss = math.inf
        self._trainer, self._state = trainer, trainer.snapshot()

    def look(self) -> float:
        """Evaluate, and keep the state if it is the best so far; inf where it diverged."""
        loss = _finite(self._trainer.evaluate()["val_loss"])
        if loss < self.loss:
            self.loss, self._state = loss, self._trainer.snapshot(into=self._state)
        return loss

    def restored(self) -> TorchTrainer:
        """Go back to it."""
        self._trainer.restore(self._state)
        return self._trainer


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def lengths(steps: int, stretch: int) -> Iterator[int]:
    """Steps in stretches; the last one may be shorter."""
    for begin in range(0, steps, stretch):
        yield min(stretch, steps - begin)


def cosine(progress: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float) -> float:
    """Torch's OneCycleLR with the given rate as the maximum: up for .3 of the steps, then down."""
    if progress < 0.3:
        return 1 - (1 - 1 / 25) * cosine(progress / 0.3)
    return cosine((progress - 0.3) / 0.7)


def constant(problem: Posed, rate: float, seed: int, kind: str = "plain") -> TorchTrainer:
    """Never change the rate."""
    trainer = problem.trainer(rate, seed, kind)
    best = _Best(trainer)
    for length in lengths(problem.steps, problem.stretch):
        if not math.isfinite(trainer.train(length)["loss"]):
            break
        best.look()
    return best.restored()


def scheduled(
    schedule: Schedule, problem: Posed, rate: float, seed: int, kind: str = "plain"
) -> TorchTrainer:
    """Multiply the rate by a function of the progress, step by step."""
    trainer = problem.trainer(rate, seed, kind)
    return _followed(schedule, trainer, problem.steps, problem.stretch)


def _followed(schedule: Schedule, trainer: TorchTrainer, steps: int, stretch: int) -> TorchTrainer:
    best, rate, done = _Best(trainer), trainer.hyperparameters["learning_rate"], 0
    for length in lengths(steps, stretch):
        for step in range(done, done + length):
            trainer.set(learning_rate=rate * max(schedule((step + 0.5) / steps), 1e-8))
            if not math.isfinite(trainer.train(1)["loss"]):
                return best.restored()
        done += length
        best.look()
    return best.restored()


def plateau(problem: Posed, rate: float, seed: int) -> TorchTrainer:
    """ReduceLROnPlateau: a tenth of the rate after 4 looks without a better validation loss."""
    trainer = problem.trainer(rate, seed)
    best, waited = _Best(trainer), 0
    for length in lengths(problem.steps, problem.stretch):
        if not math.isfinite(trainer.train(length)["loss"]):
            break
        waited = 0 if best.look() <= best.loss else waited + 1
        if waited > 3:
            rate, waited = rate / 10, 0
            trainer.set(learning_rate=rate)
    return best.restored()


def greedy_lr(problem: Posed, rate: float, seed: int) -> TorchTrainer:
    """GreedyLR of transformers: after 10 losses that fall or rise, a twentieth up or down."""
    schedule = require("transformers.optimization", extra="transformers").GreedyLR
    trainer = problem.trainer(rate, seed)
    carrier = torch.optim.SGD([torch.zeros(1)], lr=rate)  # of the rate
    scheduler = schedule(carrier, smooth=True, min_lr=rate / 1000, max_lr=1.0)
    best = _Best(trainer)
    for length in lengths(problem.steps, problem.stretch):
        for _ in range(length):
            loss = trainer.train(1)["loss"]
            if not math.isfinite(loss):
                return best.restored()
            scheduler.step(loss)
            trainer.set(learning_rate=carrier.param_groups[0]["lr"])
        best.look()
    return best.restored()


def found_one_cycle(problem: Posed, _rate: float, seed: int) -> TorchTrainer:
    """A learning-rate finder, then OneCycle with what it found as the maximum."""
    trainer = problem.trainer(problem.usual_rate, seed)
    rate, taken = found_rate(trainer, problem)
    trainer.set(learning_rate=rate)
    return _followed(one_cycle, trainer, problem.steps - taken, problem.stretch)


def found_rate(trainer: TorchTrainer, problem: Posed) -> tuple[float, int]:
    """A tenth of the rate at which the training loss is least in an exponential sweep.

    The loss is smoothed over about 10 steps, and the sweep ends early once it is four times its
    least, as in fastai (Smith 2015, arXiv:1506.01186). The trainer goes back to where it was.

    Returns:
        The rate, and the steps that were taken.
    """
    start, smooth, least, at = trainer.snapshot(), 0.0, math.inf, problem.usual_rate
    sweep = np.geomspace(problem.rates[0], problem.rates[-1], problem.steps // _SWEEP_SHARE)
    taken = 0
    for rate in sweep:
        trainer.set(learning_rate=float(rate))
        taken += 1
        smooth = 0.9 * smooth + 0.1 * _finite(trainer.train(1)["loss"])
        loss = smooth / (1 - 0.9**taken)
        if loss > 4 * least:
            break
        if loss < least:
            least, at = loss, float(rate)
    trainer.restore(start)
    return at / 10, taken


def greedy(problem: Posed, rate: float, seed: int) -> TorchTrainer:
    """Probe a quarter, the same and four times the rate from a snapshot, and keep the best."""
    trainer = problem.trainer(rate, seed)
    best = _Best(trainer)
    for length in lengths(problem.steps // 3, problem.stretch):
        start, ends = trainer.snapshot(), []
        for probed in (rate / 4, rate, rate * 4):
            trainer.restore(start)
            trainer.set(learning_rate=probed)
            trainer.train(length)
            ends.append((best.look(), probed, trainer.snapshot()))
        _, rate, end = min(ends, key=lambda each: each[0])
        trainer.restore(end)
    return best.restored()


def population(problem: Posed, rate: float, seed: int) -> TorchTrainer:
    """Population based training of four, each with a quarter of the steps.

    One begins at the given rate, the others are drawn from the range of the constant rates. After
    every stretch the worst takes over state and rate of the best, the rate times .8 or 1.2.
    Source: Jaderberg et al. (2017), arXiv:1711.09846.
    """
    rng = np.random.default_rng(seed)
    low, high = np.log(problem.rates[[0, -1]])
    drawn = np.exp(rng.uniform(low, high, size=_POPULATION - 1))
    members = [problem.trainer(float(r), seed + i) for i, r in enumerate((rate, *drawn))]
    bests = [_Best(member) for member in members]
    for length in lengths(problem.steps // _POPULATION, problem.stretch):
        for member in members:
            member.train(length)
        losses = [best.look() for best in bests]
        leader, last = members[int(np.argmin(losses))], members[int(np.argmax(losses))]
        last.restore(leader.snapshot())
        its_rate = leader.hyperparameters["learning_rate"]
        last.set(learning_rate=float(its_rate * rng.choice((0.8, 1.2))))
    return min(bests, key=lambda best: best.loss).restored()


def driven(
    policy: str | RunPolicy,
    problem: Posed,
    rate: float,
    seed: int,
    *,
    constraints: Sequence[Constraint] = (),
) -> TorchTrainer:
    """This project's policies.

    Raises:
        CannotCertify: If no state satisfied the constraints; its `best` is the model.
    """
    trainer = problem.trainer(rate, seed)
    drive(policy, trainer, problem, constraints)
    return trainer


def drive(
    policy: str | RunPolicy,
    trainer: Trainer[Any],
    problem: Posed,
    constraints: Sequence[Constraint] = (),
) -> History:
    """Spend the budget of a problem on a trainer.

    Raises:
        CannotCertify: As `driven`.
    """
    run = Run(
        trainer,
        epochs=problem.steps / trainer.steps_per_epoch,
        policy=policy,
        constraints=constraints,
        usual_rate=problem.usual_rate,
    )
    with suppress(DivergedError):  # which leaves the best state, to be scored as it is
        run.drive(lambda _: None)
    return run.history


@dataclass(frozen=True)
class Method:
    """A way to set the learning rate.

    Attributes:
        run: Trains a problem, from an initial rate, with a seed.
        takes_rate: Whether the initial rate matters.
        package: What it needs besides this project.
        extra: That brings it.
    """

    run: Callable[[Posed, float, int], TorchTrainer]
    takes_rate: bool = True
    package: str | None = None
    extra: str = "benchmarks"


METHODS: dict[str, Method] = {
    "constant": Method(constant),
    "cosine": Method(partial(scheduled, cosine)),
    "OneCycle": Method(partial(scheduled, one_cycle)),
    "ReduceLROnPlateau": Method(plateau),
    "lr finder, OneCycle": Method(found_one_cycle, takes_rate=False),
    "Prodigy": Method(partial(constant, kind="prodigy"), False, "prodigyopt"),
    "Prodigy, cosine": Method(partial(scheduled, cosine, kind="prodigy"), False, "prodigyopt"),
    "D-Adapt": Method(partial(constant, kind="d-adapt"), False, "dadaptation"),
    "D-Adapt, cosine": Method(partial(scheduled, cosine, kind="d-adapt"), False, "dadaptation"),
    "schedule-free": Method(partial(constant, kind="schedule-free"), package="schedulefree"),
    "Muon": Method(partial(constant, kind="muon")),
    "Muon, cosine": Method(partial(scheduled, cosine, kind="muon")),
    "MoMo": Method(partial(constant, kind="momo")),
    "GreedyLR": Method(greedy_lr, package="transformers", extra="transformers"),
    "greedy probe": Method(greedy),
    "PBT of 4": Method(population),
    "bold": Method(partial(driven, "bold")),
    "grow": Method(partial(driven, "grow"), takes_rate=False),
    "default": Method(partial(driven, "default"), takes_rate=False),
}


def tpe(problem: Posed, seed: int, runs: Sequence[int]) -> list[float]:
    """The held-out score after so many whole runs at constant rates that Optuna's TPE proposes."""
    return [problem.score(trainer) for trainer in searched(problem, seed, runs)]


def searched(problem: Posed, seed: int, runs: Sequence[int]) -> list[TorchTrainer]:
    """The best by validation loss of so many whole runs at constant rates.

    The first is at the framework's default, the others are what Optuna's TPE proposes.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({"rate": problem.usual_rate})
    low, high = problem.rates[[0, -1]]
    trained: list[TorchTrainer] = []

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", low, high, log=True)
        trained.append(constant(problem, rate, seed))
        return trained[-1].evaluate()["val_loss"]

    study.optimize(objective, n_trials=max(runs))
    bests = [min(study.trials[:n], key=lambda trial: trial.values[0]) for n in runs]
    return [trained[best.number] for best in bests]
