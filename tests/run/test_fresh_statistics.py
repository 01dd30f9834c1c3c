"""A stretch is judged by fresh statistics of normalisation before it is called worse."""

import math

import pytest

from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.policies import POLICIES
from rlhf_tune.run.stretch import Guard, Move
from rlhf_tune.testing import ScriptedTrainer


class Lagging(ScriptedTrainer):
    """Its validation loss is too high by `lag` until its statistics are refreshed."""

    def __init__(self, *, lag: float, layers: bool = True) -> None:
        super().__init__(learning_rate=0.1)
        self.lag, self.layers, self.refreshed = lag, layers, 0

    def train(self, steps):
        trained = super().train(steps)
        self.stale = self.lag
        return trained

    def evaluate(self):
        return {"val_loss": super().evaluate()["val_loss"] + getattr(self, "stale", 0.0)}

    def refresh(self):
        self.refreshed += 1
        if self.layers:
            self.stale = 0.0
        return self.layers

    def restore(self, snapshot):
        super().restore(snapshot)
        self.stale = 0.0


def guarded(trainer, guard=Guard()):  # noqa: B008 - it is frozen
    return GuardedRun(trainer, epochs=10, guard=guard)


def test_statistics_that_lag_do_not_roll_back() -> None:
    trainer = Lagging(lag=5.0)
    run = guarded(trainer)
    stretch = run.attempt(Move("stay"), 10)
    assert stretch.committed
    assert trainer.refreshed == 1
    assert stretch.value == run.best.value == trainer.evaluate()["val_loss"] < 1


def test_what_is_good_enough_as_it_is_is_left_alone() -> None:
    trainer = Lagging(lag=0.05)
    assert guarded(trainer).attempt(Move("stay"), 10).committed
    assert trainer.refreshed == 0


@pytest.mark.parametrize("lag", [5.0, math.inf, math.nan])
def test_without_such_layers_nothing_changes(lag: float) -> None:
    trainer = Lagging(lag=lag, layers=False)
    stretch = guarded(trainer).attempt(Move("stay"), 10)
    assert stretch.verdict == ("worse" if lag == 5.0 else "diverged")


def test_what_is_worse_all_the_same_is_rolled_back() -> None:
    trainer = Lagging(lag=5.0)
    run = guarded(trainer)
    assert run.attempt(Move("raise", {"learning_rate": 2.5}), 10).verdict == "worse"
    assert (trainer.refreshed, run.here) == (1, None)


def test_a_loss_that_is_not_finite_decides_whatever_the_statistics_are() -> None:
    trainer = Lagging(lag=0.0)
    run = guarded(trainer)
    assert run.attempt(Move("raise", {"learning_rate": 1e100}), 10).verdict == "diverged"


def test_a_probe_is_judged_by_fresh_statistics_too() -> None:
    trainer = Lagging(lag=5.0)
    run = guarded(trainer)
    assert run.probe(10) < run.best.value
    assert trainer.refreshed == 1


def test_without_a_guard_nothing_is_refreshed() -> None:
    trainer = Lagging(lag=5.0)
    assert guarded(trainer, None).attempt(Move("stay"), 10).committed
    assert trainer.refreshed == 0


class Jumping(Lagging):
    """After so many stretches its validation loss is what is told, however fresh the statistics."""

    def __init__(self, losses, *, layers: bool = True) -> None:
        super().__init__(lag=0.0, layers=layers)
        self._losses, self._stretches = losses, 0

    def train(self, steps):
        self._stretches += 1
        return super().train(steps)

    def evaluate(self):
        return {"val_loss": self._losses[self._stretches]}


def verdicts(losses, guard=Guard(spikes=True), layers=True):  # noqa: B008 - it is frozen
    """Of the stretches after which these are the losses, by their first letters."""
    run = guarded(Jumping([1.0, *losses], layers=layers), guard)
    return "".join(run.attempt(Move("stay"), 10).verdict[0] for _ in losses)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.5, 2.0, 0.4, 0.4], "cccc"),
        ([0.5, 2.0, 2.0, 0.5], "ccwc"),  # a second in succession
        ([0.5, 2.0, 0.6, 2.0, 0.6, 2.0, 2.0], "ccccccw"),  # each is the first again
        ([0.5, 2.0, 2.0, 2.0, 2.0], "ccwcw"),  # and so is what follows a rollback
        ([2.0, 2.0], "cw"),
        ([0.5, math.nan, 0.5], "cdc"),  # what is not finite does not come back
    ],
)
def test_a_single_stretch_of_a_normalised_network_may_be_worse(losses, expected) -> None:
    assert verdicts(losses) == expected
    strict = "".join("w" if x == 2.0 else v for x, v in zip(losses, expected, strict=True))
    assert verdicts(losses, Guard()) == strict
    assert verdicts(losses, layers=False) == verdicts(losses, Guard())


def test_what_jumped_is_never_the_best() -> None:
    run = guarded(Jumping([1.0, 0.5, 2.0]), Guard(spikes=True))
    good, jumped = (run.attempt(Move("stay"), 10) for _ in range(2))
    assert jumped.committed
    assert (run.here, run.best.stretch) == (jumped, good)
    run.hand_back(best=True)
    assert run.here == good


@pytest.mark.parametrize("name", ["default", "dqn", "grow"])
def test_policies_that_begin_at_high_rates_let_it_pass(name: str) -> None:
    assert POLICIES[name].guard.spikes
