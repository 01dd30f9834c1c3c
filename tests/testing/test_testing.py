"""The test kits: the scripted trainer keeps the contract, and the contract notices a broken one."""

import numpy as np
import pytest

from rlhf_tune.run.trainer import Trainer
from rlhf_tune.testing import ScriptedTrainer, TrainerContract


class TestScriptedTrainer(TrainerContract):
    def make(self):
        return ScriptedTrainer()

    def state(self, trainer):
        return vars(trainer.model)


def run(trainer: ScriptedTrainer, rates: list[float]) -> float:
    for rate in rates:
        trainer.set(learning_rate=rate)
        trainer.train(1)
    return trainer.evaluate()["val_loss"]


def test_one_scripted_step_is_the_formula():
    trainer = ScriptedTrainer(learning_rate=0.5, batch_size=4, curvature=2.0, noise=8.0, excess=3.0)
    assert dict(trainer.evaluate()) == {"val_loss": 3.0}
    assert trainer.train(1) == {"steps": 1, "loss": 3.0}
    assert trainer.model.excess == 0.0 * 3.0 + 0.25 * 8.0 / 4


def test_no_schedule_beats_the_best_rate():
    best = ScriptedTrainer()
    for _ in range(40):
        best.set(learning_rate=best.best_rate)
        best.train(1)
    rng = np.random.default_rng(0)
    others = [run(ScriptedTrainer(), list(10 ** rng.uniform(-2, 0, 40))) for _ in range(20)]
    others += [run(ScriptedTrainer(), [rate] * 40) for rate in np.geomspace(0.001, 2, 20)]
    assert best.evaluate()["val_loss"] < min(others)


def test_too_large_a_rate_diverges_without_raising():
    trainer = ScriptedTrainer(learning_rate=1e3)
    metrics = trainer.train(1000)
    assert metrics["steps"] < 1000
    assert not np.isfinite(metrics["loss"])


def test_an_epoch_has_fewer_steps_at_a_larger_batch():
    trainer = ScriptedTrainer(samples=100, batch_size=32)
    assert trainer.steps_per_epoch == 4
    trainer.set(batch_size=50)
    assert trainer.steps_per_epoch == 2


class Forgetful(ScriptedTrainer):
    """Restores the weights, not the hyperparameters."""

    def restore(self, snapshot):
        now = dict(self._now)
        super().restore(snapshot)
        self._now = now


class Shared(ScriptedTrainer):
    """Hands out its own state as a snapshot."""

    def snapshot(self, into=None):
        return self.model, dict(self._now)


class Stubborn(ScriptedTrainer):
    """Ignores a change of the learning rate after a restore, as an optimizer's state may."""

    restored = False

    def restore(self, snapshot):
        super().restore(snapshot)
        self.restored = True

    def set(self, **hyperparameters):
        if self.restored:
            hyperparameters.pop("learning_rate", None)
        super().set(**hyperparameters)


class Peeking(ScriptedTrainer):
    """Trains a little on the validation data."""

    def evaluate(self):
        self.model.excess *= 0.99
        return super().evaluate()


class Lax(ScriptedTrainer):
    """Takes what it can before it refuses."""

    def set(self, **hyperparameters):
        for name, value in hyperparameters.items():
            super().set(**{name: value})


@pytest.mark.parametrize("broken", [Forgetful, Shared, Stubborn, Peeking, Lax])
def test_the_contract_notices_a_broken_trainer(broken: type[Trainer]):
    class Kit(TestScriptedTrainer):
        def make(self):
            return broken()

    def fails(test: str) -> bool:
        try:
            getattr(Kit(), test)()
        except AssertionError:
            return True
        except pytest.skip.Exception:
            return False
        return False

    tests = [name for name in dir(Kit) if name.startswith("test_")]
    assert any(fails(test) for test in tests)
