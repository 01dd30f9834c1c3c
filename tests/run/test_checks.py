"""What is said at the call of a run, and what is left when something fails later."""

import json
import math
import random

import numpy as np
import pytest

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.run.driver import Run
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.stretch import Move
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import ScriptedTrainer


def always(name="always"):
    return constraint(name, lambda model: 1.0, at_least=0)


class Reporting(ScriptedTrainer):
    """Reports further validation metrics, and counts its steps."""

    trained = 0

    def __init__(self, metrics, **arguments):
        super().__init__(**arguments)
        self.metrics = metrics

    def train(self, steps):
        self.trained += steps
        return super().train(steps)

    def evaluate(self):
        return {**super().evaluate(), **self.metrics}


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "learning_rate", "batch_size", "move", "rolled_back", "recall"]
)
def test_a_constraint_may_not_be_called_like_a_key_of_the_history(name):
    trainer = Reporting({"val_recall": 0.5})
    with pytest.raises(InvalidInputError, match=rf"names of metrics, but got \['{name}'\].*name="):
        Run(trainer, epochs=3, constraints=[always(name)])
    assert trainer.trained == 0


def test_constraints_of_one_name_are_refused_before_they_are_measured():
    asked = []
    twins = [constraint("size", lambda m: asked.append(m) or 1.0, at_most=b) for b in (2, 3)]
    with pytest.raises(InvalidInputError, match=r"different names, but got \['size'\]"):
        Run(ScriptedTrainer(), epochs=3, constraints=twins)
    assert asked == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["val_loss", "val_recall"])
def test_a_metric_that_is_not_finite_before_training_is_named(name, value):
    trainer = Reporting({name: value})
    with pytest.raises(InvalidInputError, match=f"'{name}' must be finite before training"):
        Run(trainer, epochs=3, monitor=name)
    assert trainer.trained == 0


def test_metrics_beside_the_monitored_one_may_be_undefined():
    history = Run(Reporting({"val_recall": math.nan}), epochs=1).drive(lambda epoch: None)
    assert history.epoch == [0]
    assert math.isnan(history.history["val_recall"][0])


def test_what_a_constraint_raises_is_raised_before_training_and_says_whose_it_is():
    def broken(model):
        raise KeyError("labels")

    trainer = Reporting({})
    with pytest.raises(KeyError, match="labels") as caught:
        Run(trainer, epochs=3, constraints=[always(), constraint("broken", broken, at_least=0)])
    assert caught.value.__notes__ == ["raised by the constraint 'broken'"]
    assert trainer.trained == 0


def test_measuring_leaves_the_global_streams_alone():
    def drawn(measure):
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002 - the user's global stream
        Run(ScriptedTrainer(), epochs=2, policy="constant", constraints=measure).drive(
            lambda epoch: None
        )
        return random.random(), np.random.random()  # noqa: NPY002

    def noisy(model):
        return random.random() + np.random.random()  # noqa: NPY002

    assert drawn([constraint("noisy", noisy, at_least=0)]) == drawn([])


def test_the_start_is_certified_by_a_floor_and_not_by_a_ceiling():
    """Any leakage is small before training; a robust start is something to lose."""

    def rises(bound, **side):
        return constraint("rate", lambda model: model.learning_rate, **{bound: side["at"]})

    certified = GuardedRun(ScriptedTrainer(), epochs=1, constraints=[rises("at_least", at=0)])
    assert certified.best.certified
    assert certified.start["rate"].satisfied
    ceiling = GuardedRun(ScriptedTrainer(), epochs=1, constraints=[rises("at_most", at=0)])
    assert ceiling.start["rate"].satisfied
    assert not ceiling.best.certified


def test_a_certified_start_is_handed_back_when_training_loses_it():
    def untouched(model):
        return 1.0 - (model.steps > 0)

    trainer = ScriptedTrainer()
    run = Run(trainer, epochs=3, constraints=[constraint("untouched", untouched, at_least=0.5)])
    history = run.drive(lambda epoch: None)
    assert trainer.model.steps == 0
    assert {stretch.verdict for stretch in history.discarded} == {"violates"}


def test_what_comes_nearest_to_the_bound_is_quoted():
    def peak(model):
        return 0.4 - abs(model.steps - 50) / 1000

    with pytest.raises(CannotCertify, match=r"nearest to its bound was peak = 0\.4 for a floor of"):
        Run(
            ScriptedTrainer(), epochs=10, policy="constant",
            constraints=[constraint("peak", peak, at_least=0.9)],
        ).drive(lambda epoch: None)  # fmt: skip


def test_a_run_that_only_diverges_ends_with_the_cause():
    class Broken(ScriptedTrainer):
        tried = 0

        def train(self, steps):
            Broken.tried += 1
            return {**super().train(steps), "loss": math.nan}

        def data_fault(self):
            return "train_data holds NaN or infinities, first in row 7"

    with pytest.raises(DivergedError, match=r"at learning rates .* and would at any; .* row 7"):
        Run(Broken(), epochs=40, policy="bold").drive(lambda epoch: None)
    assert Broken.tried == 4  # the last at a rate that changes nothing


def test_no_number_of_divergences_ends_a_run_that_recovers():
    """A rate a million times too large is cut until it is borne."""
    trainer = ScriptedTrainer(learning_rate=1e6, samples=32 * 2000)
    history = Run(trainer, epochs=60, policy="bold").drive(lambda epoch: None)
    verdicts = [stretch.verdict for stretch in history.discarded]
    assert verdicts[:8] == ["diverged"] * 8
    assert trainer.evaluate()["val_loss"] < 0.1


def test_a_run_that_ends_with_nothing_committed_says_so():
    trainer = ScriptedTrainer(learning_rate=1e9, samples=32 * 2000)
    with pytest.raises(DivergedError, match="must commit something") as caught:
        Run(trainer, epochs=3, policy="constant").drive(lambda epoch: None)
    assert caught.value.best is trainer.model
    assert trainer.model.steps == 0
    assert [stretch.verdict for stretch in caught.value.history.discarded] == ["diverged"]


def test_data_that_stream_are_found_out_though_good_ones_come_between():
    """One of three stretches meets what is not finite."""

    class Stream(ScriptedTrainer):
        stretches = 0

        def train(self, steps):
            Stream.stretches += 1
            bad = Stream.stretches % 3 == 0 or steps > self.steps_per_epoch
            return {**super().train(steps), **({"loss": math.nan} if bad else {})}

        def data_fault(self):
            return "the data hold NaN"

    with pytest.raises(DivergedError, match="would at any; the data hold NaN"):
        Run(Stream(), epochs=6, policy="bold").drive(lambda epoch: None)


def test_weights_that_are_not_finite_are_refused_before_training():
    class Poisoned(ScriptedTrainer):
        finite = False

    with pytest.raises(InvalidInputError, match="weights must be finite before training"):
        Run(Poisoned(), epochs=3)


def test_weights_that_are_not_finite_are_divergence_whatever_the_metrics_say():
    class Poisoned(ScriptedTrainer):
        finite = False

    run = GuardedRun(Poisoned(), epochs=4)
    assert run.attempt(Move("stay"), 10).verdict == "diverged"


def test_somebody_else_who_sets_the_rate_is_noticed():
    class Meddled(ScriptedTrainer):
        def train(self, steps):
            metrics = super().train(steps)
            self.set(learning_rate=1e-4)
            return metrics

    with pytest.raises(InvalidInputError, match=r"one owner, but the policy set .* it is 0\.0001"):
        Run(Meddled(), epochs=4, policy="bold").drive(lambda epoch: None)
    Run(Meddled(), epochs=4, policy="constant").drive(lambda epoch: None)  # it may


def test_a_crash_leaves_the_best_state_and_the_history():
    class OutOfSpaceError(Exception):
        pass

    trainer = ScriptedTrainer(learning_rate=0.05)

    def stop_at_three(epoch):
        if epoch.number == 3:
            raise OutOfSpaceError("no space left")

    with pytest.raises(OutOfSpaceError) as caught:
        Run(trainer, epochs=10, policy="constant").drive(stop_at_three)
    assert caught.value.best is trainer.model
    assert caught.value.history.epoch == [0, 1, 2, 3]
    assert trainer.evaluate()["val_loss"] == min(caught.value.history.history["val_loss"])
    assert "4 epochs were committed" in caught.value.__notes__[0]


def test_a_crash_in_mid_stretch_leaves_no_half_trained_model():
    class Fails(ScriptedTrainer):
        def train(self, steps):
            metrics = super().train(steps)
            if self.model.steps > 25:
                raise MemoryError
            return metrics

    trainer = Fails(learning_rate=0.05)
    with pytest.raises(MemoryError) as caught:
        Run(trainer, epochs=10, policy="constant").drive(lambda epoch: None)
    assert trainer.model.steps == 20
    assert caught.value.history.epoch == [0, 1]


def test_a_history_is_json():
    run = Run(ScriptedTrainer(), epochs=3, constraints=[always()])
    history = run.drive(lambda epoch: None).history
    assert json.loads(json.dumps(history)) == history


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "got NoneType"),
        (0.3, "got float"),
        ([0.3], "got list"),
        (("val_loss", 0.3), "got tuple"),
        ({"val_loss": None}, "'val_loss' must hold numbers"),
        ({"val_loss": "low"}, "'val_loss' must hold numbers"),
        ({"val_loss": [0.1, 0.2]}, r"'val_loss' must be one number, but has the shape \(2,\)"),
        ({"val_loss": {"a": 1.0}}, "'val_loss' must hold numbers"),
    ],
)
def test_metrics_that_are_none_are_a_sentence(returned, said):
    with pytest.raises(InvalidInputError, match=said):
        as_metrics(returned)


def test_metrics_of_every_number_are_floats():
    torch = pytest.importorskip("torch")
    values = {
        "a": 1,
        "b": np.float32(2),
        "c": np.array([3.0]),
        "d": torch.tensor(4.0, requires_grad=True),
        "e": torch.tensor([5.0], dtype=torch.bfloat16),
        "f": True,
    }
    found = as_metrics(values)
    assert list(found.values()) == [1.0, 2.0, 3.0, 4.0, 5.0, 1.0]
    assert {type(value) for value in found.values()} == {float}
