"""A driven run: what is committed, rolled back, charged and handed back."""

import math

import numpy as np
import pytest

from rlhf_tune.run import Run
from rlhf_tune.safety.constraint import constraint
from rlhf_tune.testing import ScriptedTrainer


def driven(trainer=None, *, epochs=10, **arguments):
    trainer = trainer or ScriptedTrainer()
    run = Run(trainer, epochs=epochs, **arguments)
    return trainer, run, run.drive(lambda epoch: None)


def slow(at_most):
    """A constraint that is violated by training with a larger rate."""
    return constraint("rate", lambda model: model.learning_rate, at_most=at_most)


def test_constant_is_a_plain_loop():
    plain = ScriptedTrainer(learning_rate=0.05)
    losses = [plain.train(10)["loss"] for _ in range(10)]
    trainer, _, history = driven(ScriptedTrainer(learning_rate=0.05), policy="constant")
    assert trainer.model == plain.model
    assert history.history["loss"] == losses
    assert history.history["learning_rate"] == [0.05] * 10
    assert history.history["batch_size"] == [32] * 10
    assert history.history["move"] == ["stay"] * 10
    assert history.history["rolled_back"] == [0] * 10
    assert history.epoch == list(range(10))
    assert history.discarded == []


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1, 1.0, 1.9, 30.0])
@pytest.mark.parametrize("policy", ["default", "grow"])
def test_the_given_rate_does_not_matter_where_there_is_a_range_test(policy, rate):
    trainer, run, history = driven(ScriptedTrainer(learning_rate=rate), policy=policy)
    best = min(constant_loss(r) for r in np.geomspace(1e-4, 1, 30))
    assert trainer.evaluate()["val_loss"] < 1.5 * best
    assert run.guarded.spent <= 10
    assert history.history["val_loss"][-1] == trainer.evaluate()["val_loss"]


def constant_loss(rate):
    trainer = ScriptedTrainer(learning_rate=rate)
    trainer.train(100)
    return trainer.evaluate()["val_loss"]


@pytest.mark.parametrize("policy", ["default", "grow", "bold", "constant"])
@pytest.mark.parametrize("epochs", [1, 3, 10, 40, 2.5])
def test_no_more_than_the_budget_is_trained(policy, epochs):
    trainer = ScriptedTrainer(learning_rate=0.5)
    taken = []
    train = trainer.train

    def counted(steps):
        result = train(steps)
        taken.append(result["steps"] / trainer.steps_per_epoch)
        return result

    trainer.train = counted
    _, run, history = driven(trainer, policy=policy, epochs=epochs)
    assert sum(taken) <= epochs + 1e-9
    assert run.guarded.spent == pytest.approx(sum(taken))
    assert run.guarded.left == 0 or policy == "constant"
    assert 1 <= len(history.epoch) <= math.ceil(epochs)
    assert {len(column) for column in history.history.values()} == {len(history.epoch)}
