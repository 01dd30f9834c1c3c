"""Constraints that are measured now and then: what is handed back was measured all the same."""

import math

import pytest

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.driver import Run
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Guard, Move
from rlhf_tune.run.verification import Verification
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import ScriptedTrainer

STAY = RunPolicy(lambda state: Move("stay"), Guard(), stretches=1)


def counted(value=lambda model: 1.0, **bound):
    """A constraint, and the steps at which it was measured."""
    at = []

    def measured(model):
        at.append(model.steps)
        return value(model)

    return constraint("size", measured, **(bound or {"at_least": 0.5})), at


def driven(each, *, epochs=10, policy=STAY, **arguments):
    trainer = ScriptedTrainer(learning_rate=0.05)
    run = Run(trainer, epochs=epochs, policy=policy, constraints=[each], **arguments)
    return trainer, run, run.drive(lambda epoch: None)


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (1, list(range(0, 101, 10))),
        (2, [0, 20, 40, 60, 80, 100]),
        (4, [0, 40, 80, 100]),
        (99, [0, 100]),
    ],
)
def test_every_nth_stretch_is_measured_and_the_last_one(every, steps):
    each, at = counted()
    trainer, run, history = driven(each, verify_every=every)
    assert at == steps
    assert trainer.model.steps == 100
    assert run.guarded.best.certified
    seen = [10 * (i + 1) for i, value in enumerate(history.history["size"]) if value == 1.0]
    assert seen == steps[1:]
    assert all(math.isnan(v) or v == 1.0 for v in history.history["size"])


def test_a_violation_is_found_at_the_next_measurement_and_all_since_is_rolled_back():
    each, _ = counted(lambda model: model.steps, at_most=45)
    floor, _ = counted()
    floor.name = "floor"
    trainer = ScriptedTrainer(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=STAY, constraints=[each, floor], verify_every=2)
    history = run.drive(lambda epoch: None)
    assert trainer.model.steps == 40
    assert [stretch.verdict for stretch in history.discarded] == ["violates"] * 3
    assert [s.measurements != {} for s in run.guarded.record] == [False, True] * 5


def test_a_run_that_is_stopped_between_measurements_measures_what_it_hands_back():
    each, at = counted()
    trainer = ScriptedTrainer(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=STAY, constraints=[each], verify_every=4)
    run.drive(lambda epoch: run.stop() if epoch.number == 4 else None)
    assert at == [0, 40, 50]
    assert trainer.model.steps == 50
    assert run.guarded.best.stretch is run.guarded.record[-1]
    assert run.guarded.record[-1].satisfied


def test_what_was_never_measured_is_not_handed_back():
    each, at = counted(lambda model: model.steps, at_most=45)
    floor, _ = counted()
    floor.name = "floor"
    trainer = ScriptedTrainer(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=STAY, constraints=[each, floor], verify_every=3)
    run.drive(lambda epoch: run.stop() if epoch.number == 4 else None)
    assert at == [0, 30, 50]  # the last one violates
    assert trainer.model.steps == 30


def test_an_interrupt_does_not_measure_what_is_half_trained():
    each, at = counted(lambda model: model.steps, at_least=25)

    class Interrupted(ScriptedTrainer):
        def train(self, steps):
            if self.model.steps == 40:
                super().train(3)
                raise KeyboardInterrupt
            return super().train(steps)

    trainer = Interrupted(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=STAY, constraints=[each], verify_every=9)
    history = run.drive(lambda epoch: None)
    assert history.interrupted
    assert at == [0, 40]
    assert trainer.model.steps == 40
    assert run.guarded.best.certified


def test_what_an_error_left_half_trained_is_not_certified():
    each, at = counted(lambda model: model.steps, at_least=25)

    class Failing(ScriptedTrainer):
        def train(self, steps):
            if self.model.steps == 40:
                super().train(3)
                raise MemoryError
            return super().train(steps)

    trainer = Failing(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=STAY, constraints=[each], verify_every=9)
    with pytest.raises(MemoryError):
        list(run)
    run.finish()
    assert at == [0, 40]
    assert trainer.model.steps == 40


def test_what_cannot_be_certified_says_so():
    each, at = counted(lambda model: model.steps, at_least=1000)
    with pytest.raises(CannotCertify, match="size = 50 for a floor of 1000; lower"):
        driven(each, epochs=5, verify_every=3)
    assert at == [0, 30, 50]


def test_the_last_state_counts_for_a_policy_that_keeps_it():
    each, at = counted()
    trainer, run, _ = driven(each, policy="constant", verify_every=4)
    assert at == [0, 40, 80, 100]
    assert trainer.model.steps == 100
    assert run.guarded.record[-1].measurements


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2", None])
def test_how_often_is_a_whole_number(every):
    with pytest.raises(InvalidInputError, match=r"`verify_every` must be a whole number >= 1"):
        Run(ScriptedTrainer(), epochs=2, verify_every=every)


def test_the_share_of_time_is_that_of_measurements(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    verification = Verification(1)
    now[0] = 3.0
    with verification.timed():
        now[0] = 4.0
    assert verification.share == 0.25
    now[0] = 10.0
    later = Verification(1)
    now[0] = 14.0  # before the state is taken does not count
    later.load_state_dict({"stretches": 1, "seconds": 1.0, "elapsed": 4.0})
    now[0] = 18.0
    assert later.share == 0.125


def test_the_history_tells_the_share():
    each, _ = counted()
    assert 0 < driven(each)[2].verification < 1
    trainer = ScriptedTrainer()
    assert Run(trainer, epochs=2).drive(lambda epoch: None).verification == 0
