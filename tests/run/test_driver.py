"""A driven run: what is committed, rolled back, charged and handed back."""

import math

import numpy as np
import pytest

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.display import reason
from rlhf_tune.run.driver import Run
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.mode import mode_of
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.schedules import terminal_decay
from rlhf_tune.run.stretch import Guard, Move, Stretch
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import ScriptedTrainer


def driven(trainer=None, *, epochs=10, **arguments):
    trainer = trainer or ScriptedTrainer()
    run = Run(trainer, epochs=epochs, **arguments)
    return trainer, run, run.drive(lambda epoch: None)


WITHOUT_WARM_UP = RunPolicy(
    lambda state: Move("stay", {"learning_rate": state.learning_rate}), Guard(), range_test=True
)


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
    trainer, run, history = driven(
        ScriptedTrainer(learning_rate=rate), policy=policy, usual_rate=0.01
    )
    assert [probe.learning_rate for probe in history.range_test] == pytest.approx([10**-0.75])
    best = min(constant_loss(r) for r in np.geomspace(1e-4, 1, 30))
    assert trainer.evaluate()["val_loss"] < 1.5 * best
    assert run.guarded.spent <= 10
    assert history.history["val_loss"][-1] == trainer.evaluate()["val_loss"]


def test_a_budget_too_small_for_a_range_test_begins_at_the_first_rate_of_one():
    _, run, history = driven(policy=WITHOUT_WARM_UP, epochs=1, usual_rate=0.02)
    assert history.range_test == []
    assert run.guarded.record[0].learning_rate == pytest.approx(0.02 * 10**1.25)


def test_a_range_test_goes_down_until_a_rate_is_bearable():
    _, run, history = driven(policy=WITHOUT_WARM_UP, epochs=20, usual_rate=1.0)
    assert [p.learning_rate for p in history.range_test] == pytest.approx(
        [10**1.25, 10**0.75, 10**0.25]
    )
    assert run.guarded.record[0].learning_rate == history.range_test[-1].learning_rate


def test_a_range_test_that_has_used_up_its_share_goes_one_down_from_what_was_unbearable():
    _, run, history = driven(policy=WITHOUT_WARM_UP, epochs=3, usual_rate=1.0)
    assert [p.learning_rate for p in history.range_test] == pytest.approx([10**1.25])
    assert run.guarded.record[0].learning_rate == pytest.approx(10**0.75)


def constant_loss(rate):
    trainer = ScriptedTrainer(learning_rate=rate)
    trainer.train(100)
    return trainer.evaluate()["val_loss"]


@pytest.mark.parametrize("policy", ["default", "dqn", "grow", "bold", "constant"])
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


def test_what_is_rolled_back_is_charged_listed_and_not_an_epoch():
    trainer, run, history = driven(ScriptedTrainer(learning_rate=1.0), policy="bold")
    assert {stretch.verdict for stretch in history.discarded} <= {"diverged", "worse"}
    assert len(history.discarded) >= 2
    charged = sum(stretch.steps for stretch in run.guarded.record)
    assert charged == 100
    assert trainer.model.steps < 100
    assert sum(history.history["rolled_back"]) <= len(history.discarded)
    assert run.guarded.record == sorted(run.guarded.record, key=lambda stretch: stretch.spent)


def test_the_best_state_is_handed_back():
    trainer, run, _ = driven(ScriptedTrainer(learning_rate=0.3), policy="bold", epochs=20)
    values = [stretch.value for stretch in run.guarded.record if stretch.committed]
    assert trainer.evaluate()["val_loss"] == min(values)


def test_a_diverging_constant_run_ends_at_its_last_good_state():
    with pytest.warns(UserWarning, match=r"ended early, .* of 1000 epochs it diverged"):
        trainer, run, history = driven(
            ScriptedTrainer(learning_rate=3.0, curvature=2.0), policy="constant", epochs=1000
        )
    assert [stretch.verdict for stretch in history.discarded] == ["diverged"]
    assert math.isfinite(trainer.evaluate()["val_loss"])
    assert run.guarded.spent < 1000


def test_a_metric_that_should_rise():
    class Accuracy(ScriptedTrainer):
        def evaluate(self):
            return {**super().evaluate(), "val_accuracy": 1 / (1 + self.model.excess)}

    falling, _, _ = driven(Accuracy(), policy="bold")
    rising, _, _ = driven(Accuracy(), policy="bold", monitor="val_accuracy", mode="max")
    assert rising.model.excess == pytest.approx(falling.model.excess, rel=0.5)


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [
        ("val_loss", "auto", "min"),
        ("val_accuracy", "auto", "max"),
        ("val_auc", "auto", "max"),
        ("val_accuracy", "min", "min"),
        ("val_auroc", "auto", "max"),
        ("val_BinaryF1Score", "auto", "max"),
        ("val_MulticlassAUROC", "auto", "max"),
        ("val_top5_acc", "auto", "max"),
        ("val_MSELoss", "auto", "min"),
        ("val_word_error_rate", "auto", "min"),
    ],
)
def test_the_mode_goes_by_the_name(monitor, mode, expected):
    assert mode_of(monitor, mode) == expected


@pytest.mark.parametrize("monitor", ["val_quality", "val_accurate_loss_of_recall", "val_account"])
def test_a_mode_that_the_name_does_not_tell_is_asked_for(monitor):
    with pytest.raises(InvalidInputError, match="must be 'min' or 'max' where the name does not"):
        mode_of(monitor, "auto")
    assert mode_of(monitor, "max") == "max"


def test_a_batch_may_grow_to_no_more_than_what_is_left_of_the_budget():
    def grow(state):
        return Move("grow", {"learning_rate": 0.01, "batch_size": state.batch_size_limit})

    _, run, _ = driven(ScriptedTrainer(samples=3200), policy=RunPolicy(grow, None), epochs=0.5)
    assert min(stretch.steps for stretch in run.guarded.record) >= 1
    assert run.guarded.spent <= 0.5


def test_a_further_hyperparameter_is_one_more_entry_of_a_move():
    trainer = ScriptedTrainer()
    trainer._now["adversarial_weight"] = 0.5
    moves = iter([Move("stay"), Move("harden", {"adversarial_weight": 0.75})])
    policy = RunPolicy(lambda state: next(moves, None), None, stretches=1)
    _, run, history = driven(trainer, policy=policy, epochs=2)
    assert history.history["adversarial_weight"] == [0.5, 0.75]
    assert run.guarded.record[1].hyperparameters == {
        "learning_rate": 0.01,
        "batch_size": 32,
        "adversarial_weight": 0.75,
    }


# Constraints


def test_once_certified_a_violation_is_rolled_back_and_the_rate_cut():
    trainer, _, history = driven(
        ScriptedTrainer(learning_rate=0.02), policy="bold", constraints=[slow(0.1)]
    )
    broken = [stretch for stretch in history.discarded if stretch.verdict == "violates"]
    assert broken
    assert all(stretch.measurements["rate"].value > 0.1 for stretch in broken)
    assert max(history.history["rate"]) <= 0.1
    assert trainer.model.learning_rate <= 0.1


def test_before_that_violations_are_reported_and_training_goes_on():
    trainer, _, history = driven(
        ScriptedTrainer(learning_rate=0.5), constraints=[slow(0.0005)], policy="default", epochs=40
    )
    rates = history.history["rate"]
    assert rates[0] > 0.0005  # reported
    assert trainer.model.learning_rate <= 0.0005  # reached by the decay
    assert history.discarded == []


def test_a_run_without_certified_state_raises_with_the_best_model_and_the_history():
    trainer = ScriptedTrainer()
    with pytest.raises(CannotCertify, match=r"rate = 0\.01 for a ceiling of -1") as caught:
        driven(trainer, constraints=[slow(-1)], policy="constant")
    assert caught.value.best is trainer.model
    assert trainer.model.steps == 100
    assert len(caught.value.history.epoch) == 10


def test_an_interrupt_restores_the_best_certified_state():
    trainer = ScriptedTrainer(learning_rate=0.2)
    run = Run(trainer, epochs=20, policy="bold", constraints=[slow(10)])

    def stop_at_five(epoch):
        if epoch.number == 5:
            raise KeyboardInterrupt

    history = run.drive(stop_at_five)
    assert history.interrupted
    assert len(history.epoch) == 6
    values = [stretch.value for stretch in run.guarded.record if stretch.committed]
    assert trainer.evaluate()["val_loss"] == min(values)


def test_a_callback_may_stop_the_run():
    run = Run(ScriptedTrainer(), epochs=20, policy="constant")
    for epoch in run:
        if epoch.number == 2:
            run.stop()
    assert len(run.finish().epoch) == 3


def test_epochs_are_divided_where_there_are_few():
    _, run, history = driven(epochs=2, policy="bold")
    assert len(run.guarded.record) == 12
    assert len(history.epoch) <= 2
    assert [stretch.steps for stretch in run.guarded.record[:6]] == [1, 2, 2, 1, 2, 2]


def test_an_epoch_entry_is_the_mean_over_its_stretches():
    _, run, history = driven(epochs=1, policy="default")
    committed = [s for s in run.guarded.record if s.committed]
    assert not history.discarded
    mean = np.average([s.training["loss"] for s in committed], weights=[s.steps for s in committed])
    assert history.history["loss"] == [pytest.approx(mean)]


# The guard


def test_a_guard_allows_a_share_of_the_best_and_of_the_unit():
    guard = Guard(ratio=0.25, slack=0.05)
    assert guard.allows(1.25 + 0.1, best=1.0, unit=2.0)
    assert not guard.allows(1.25 + 0.11, best=1.0, unit=2.0)
    assert guard.allows(-0.65, best=-0.8, unit=0.1)  # a metric that rises, with its sign changed
    assert not guard.allows(-0.59, best=-0.8, unit=0.1)


def test_going_back_is_to_the_best_not_to_the_last():
    trainer = ScriptedTrainer(learning_rate=0.1)
    guarded = GuardedRun(trainer, epochs=10, guard=Guard())
    good = guarded.attempt(Move("stay"), 20)
    assert guarded.attempt(Move("raise", {"learning_rate": 1.2}), 1).committed  # a little worse
    assert trainer.evaluate()["val_loss"] > good.value
    assert guarded.attempt(Move("raise", {"learning_rate": 1000.0}), 5).verdict == "worse"
    assert trainer.evaluate()["val_loss"] == good.value
    assert trainer.hyperparameters["learning_rate"] == 0.1


class Told(ScriptedTrainer):
    """Its losses are told in advance; those of training stay where they are by default."""

    def __init__(self, losses, training=(), samples=320):
        super().__init__(samples=samples)
        self._losses, self._training = iter(losses), iter(training)

    def train(self, steps):
        return {"steps": steps, "loss": next(self._training, 1.0)}

    def evaluate(self):
        return {"val_loss": next(self._losses)}


def verdicts(guard, losses, training=()):
    guarded = GuardedRun(Told([1.0, *losses], training), epochs=10, guard=guard)
    return "".join(guarded.attempt(Move("stay"), 10).verdict[0] for _ in losses)


@pytest.mark.parametrize(
    ("losses", "training", "expected"),
    [
        ([0.9, 0.91, 0.92, 0.93, 0.89], (), "ccscc"),
        ([0.9, 0.91, 0.89, 0.90, 0.88], (), "ccccc"),  # a better one in time
        ([0.9, 0.91, 0.9, 0.95, 0.95], (), "ccscs"),  # as good is not better; anew from a rollback
        ([1.1, 1.2, 0.9, 9.0, 0.95, 0.95], (), "cccwcs"),  # never before there is a loss to compare
        ([0.9] * 5, [1, 0.9, 0.8, 0.8, 0.8], "ccccs"),
        ([0.9] * 5, [1, 2, 0.8, 0.9, 0.9], "ccccs"),  # the lowest one is too long ago
    ],
)
def test_a_stretch_is_rolled_back_once_there_was_nothing_new_for_long(losses, training, expected):
    assert verdicts(Guard(patience=0.2), losses, training) == expected
    assert "s" not in verdicts(Guard(), losses, training)


def test_where_no_training_loss_is_reported_the_value_alone_counts():
    class Silent(Told):
        def train(self, steps):
            return {"steps": steps}

    guarded = GuardedRun(Silent([1.0] * 6), epochs=10, guard=Guard(patience=0.2))
    made = [guarded.attempt(Move("stay"), 10).verdict[0] for _ in range(5)]
    assert "".join(made) == "ccscs"


def test_nothing_new_is_asked_for_after_a_part_of_the_budget():
    assert verdicts(Guard(patience=0.2, until=0.4), [0.9] * 8) == "ccsccccc"
    assert verdicts(Guard(patience=0.2), [0.9] * 8) == "ccscscsc"


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        ("diverged", "at rate 0.1 the run diverged"),
        ("worse", "at rate 0.1 the run got much worse"),
        ("stalled", "at rate 0.1 the run got no better for long"),
    ],
)
def test_a_discarded_stretch_says_why(verdict, told):
    assert reason(Stretch("stay", {"learning_rate": 0.1}, 10, 1.0, {}, verdict=verdict)) == told


def test_by_default_a_rate_that_leads_nowhere_is_cut_until_the_decay():
    losses = [1.0, 0.9, *[0.5] * 20]  # before training, after the range test, after stretches
    _, run, history = driven(Told(losses), epochs=20, usual_rate=0.02)
    assert [s.verdict for s in history.discarded] == ["stalled"] * 3
    assert np.diff([s.spent for s in history.discarded]) == pytest.approx(0.15 * 20)
    assert history.discarded[-1].spent <= 0.6 * 20
    last = run.guarded.record[-1]
    decay = terminal_decay((last.spent - 0.5 * last.steps / 10) / 20)
    assert last.learning_rate == pytest.approx(history.range_test[0].learning_rate / 4**3 * decay)


def test_an_epoch_whose_end_is_rolled_back_is_not_counted():
    losses = [1.0, 0.9, 0.5, 0.4, 0.45, 9.0, *np.arange(0.39, 0.2, -0.01)]
    _, _, history = driven(Told(losses, samples=3200), epochs=6, policy="default")
    assert history.history["val_loss"][:3] == pytest.approx([0.4, 0.38, 0.36])
    assert history.history["rolled_back"][:3] == [0, 1, 0]


def test_a_snapshot_that_fails_half_way_does_not_spoil_the_best():
    trainer = ScriptedTrainer()
    guarded = GuardedRun(trainer, epochs=10)
    guarded.attempt(Move("stay"), 10)
    best = guarded.best
    trainer.snapshot = lambda into: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        guarded.attempt(Move("stay"), 10)
    assert guarded.best is best


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs > 0 must hold, but got 0"),
        ({"monitor": "val_f1"}, r"one of \['val_loss'\], but got 'val_f1'"),
        ({"policy": "ppo"}, "`policy` must be one of"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InvalidInputError, match=message):
        driven(**wrong)
