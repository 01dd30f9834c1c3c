"""`Controller` for torch: loops written by hand."""

import math
import threading

import pytest
from torch_runs import LOSS, TRAIN, limit, network, parts, same, val_loss

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Move

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, TensorDataset

from rlhf_tune_integrations.pytorch import Controller


def epoch_by_hand(model, optimizer):
    for x, y in DataLoader(TensorDataset(*map(torch.from_numpy, TRAIN)), batch_size=32):
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()


def test_a_controller_drives_a_loop_written_by_hand():
    model, optimizer = parts(lr=0.01)
    controller = Controller(model, optimizer, epochs=10)
    while controller.running:
        epoch_by_hand(model, optimizer)
        controller.after_epoch({"val_loss": val_loss(model)})
    controller.finish()
    assert len(controller.record) == 10
    rates = [stretch.learning_rate for stretch in controller.record]
    assert rates[:6] == pytest.approx([0.002, 0.006, 0.01, 0.01, 0.01, 0.01])
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert rates[-1] < 0.001
    assert val_loss(model) == min(stretch.value for stretch in controller.record)


def test_a_controller_rolls_back_what_diverged_and_cuts_the_rate():
    model, optimizer = parts(torch.optim.SGD, lr=0.4)
    controller = Controller(model, optimizer, epochs=10)
    epoch_by_hand(model, optimizer)
    controller.after_epoch({"val_loss": val_loss(model)})
    before = [p.clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    stretch = controller.after_epoch({"val_loss": math.nan})
    assert stretch.verdict == "diverged"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4 / 4)  # warm by now


def test_a_controller_certifies_too():
    model, optimizer = parts()
    controller = Controller(model, optimizer, epochs=1, constraints=[limit(0.0)])
    epoch_by_hand(model, optimizer)
    assert controller.after_epoch({"val_loss": val_loss(model)}).committed
    with pytest.raises(InvalidInputError, match="the run is over"):
        controller.after_epoch({"val_loss": 1.0})
    with pytest.raises(CannotCertify) as caught:
        controller.finish()
    assert caught.value.best is model


def test_a_controller_has_a_history():
    model, optimizer = parts(torch.optim.SGD, lr=0.05)
    controller = Controller(model, optimizer, epochs=6, constraints=[limit(1e9)])
    losses = []
    for number in range(6):
        epoch_by_hand(model, optimizer)
        losses.append(math.nan if number == 2 else val_loss(model))
        controller.after_epoch({"val_loss": losses[-1], "loss": 1.0 + number})
    history = controller.history
    assert history.epoch == [0, 1, 2, 3, 4]
    assert history.history["val_loss"] == [loss for loss in losses if math.isfinite(loss)]
    assert history.history["loss"] == [1.0, 2.0, 4.0, 5.0, 6.0]
    assert history.history["rolled_back"] == [0, 0, 1, 0, 0]
    assert {"learning_rate", "move", "norm"} <= history.history.keys()
    assert [stretch.verdict for stretch in history.discarded] == ["diverged"]


def test_a_controller_told_of_the_start_hands_it_back_if_nothing_was_better():
    for before, kept in (({"val_loss": 0.5}, True), (None, False)):
        model, optimizer = parts()
        controller = Controller(model, optimizer, epochs=2, before=before)
        while controller.running:
            epoch_by_hand(model, optimizer)
            controller.after_epoch({"val_loss": 9.0})
        controller.finish()
        assert same(model, network()) is kept
    assert controller.history.epoch == [0, 1]


@pytest.mark.parametrize("before", [{}, {"val_loss": math.nan}, {"loss": 1.0}])
def test_metrics_before_training_must_hold_the_monitored_one(before):
    with pytest.raises(InvalidInputError, match="`before` must hold 'val_loss', and it must be"):
        Controller(*parts(), epochs=2, before=before)


def test_a_controller_refuses_policies_that_it_cannot_play():
    with pytest.raises(InvalidInputError, match="must leave the batch size alone"):
        Controller(*parts(), epochs=2, policy="grow")
    grows = RunPolicy(lambda state: Move("grow", {"batch_size": 64}), None)
    with pytest.raises(InvalidInputError, match=r"but not \['batch_size'\]"):
        Controller(*parts(), epochs=2, policy=grows)


def test_a_controller_gives_up_in_the_end_and_keeps_what_there_is():
    model, optimizer = parts()
    controller = Controller(model, optimizer, epochs=20)
    epoch_by_hand(model, optimizer)
    controller.after_epoch({"val_loss": val_loss(model)})
    kept = val_loss(model)
    for _ in range(7):
        epoch_by_hand(model, optimizer)
        controller.after_epoch({"val_loss": math.nan})
    with pytest.raises(DivergedError, match="the rate was cut each time") as caught:
        controller.after_epoch({"val_loss": math.nan})
    assert len(controller.record) == 9
    assert val_loss(model) == kept
    assert caught.value.history is controller.history


def test_a_controller_says_after_a_quarter_how_far_its_bounds_are(caplog):
    model, optimizer = parts()
    controller = Controller(model, optimizer, epochs=8, constraints=[limit(0.0)])
    for _ in range(4):
        epoch_by_hand(model, optimizer)
        controller.after_epoch({"val_loss": val_loss(model)})
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("after 2 epochs no state of the run keeps its bounds; nearest was norm")


def loader():
    return DataLoader(TensorDataset(*map(torch.from_numpy, TRAIN)), batch_size=25, shuffle=True)


def stepping(model, optimizer, **arguments):
    arguments = {"epochs": 6, "validate": lambda: {"val_loss": val_loss(model)}, **arguments}
    return Controller(model, optimizer, steps_per_epoch=8, **arguments)


def by_steps(controller, model, optimizer, spoil=lambda step: None):
    """The steps that a loop by hand takes until it is told to end."""
    taken = 0
    while controller.running:
        for x, y in loader():
            optimizer.zero_grad()
            loss = LOSS(model(x), y)
            loss.backward()
            optimizer.step()
            taken += 1
            spoil(taken)
            if not controller.after_step(loss):
                break
    return taken


def test_a_loop_that_tells_of_steps_has_a_range_test_and_stretches_within_an_epoch():
    torch.manual_seed(0)
    model, optimizer = parts(lr=1e-5)
    before = val_loss(model)
    with stepping(model, optimizer, constraints=[limit(1e9)]) as controller:
        assert by_steps(controller, model, optimizer) == 48
        controller.finish()
    history = controller.history
    assert history.range_test[0].learning_rate == pytest.approx(1e-3 * 10**1.25)
    assert len(controller.record) > 6
    assert {"loss", "val_loss", "learning_rate", "norm"} <= history.history.keys()
    assert history.certificate["norm"].satisfied
    assert val_loss(model) == min(s.value for s in controller.record) < before - 0.05


def test_what_a_loop_by_steps_spoils_is_rolled_back():
    torch.manual_seed(0)
    model, optimizer = parts(lr=1e-2)

    def spoil(step):
        if step == 30:
            for parameter in model.parameters():
                parameter.data.fill_(math.nan)

    with stepping(model, optimizer) as controller:
        by_steps(controller, model, optimizer, spoil)
        controller.finish()
    assert "diverged" in [stretch.verdict for stretch in controller.history.discarded]
    assert math.isfinite(val_loss(model))


def test_a_loop_by_steps_that_raises_or_stops_leaves_the_best_state_and_no_thread():
    threads = threading.active_count()
    model, optimizer = parts(lr=1e-2)

    def fail(step):
        if step == 25:
            raise OSError("disk full")

    def run():
        with stepping(model, optimizer) as controller:
            by_steps(controller, model, optimizer, fail)

    with pytest.raises(OSError, match="disk full") as caught:
        run()
    assert val_loss(model) <= min(caught.value.history.history["val_loss"])
    with stepping(*(early := parts(lr=1e-2))) as controller:
        epoch_by_hand(*early)
        controller.after_step(0.5)
        controller.finish()
    assert controller.history.interrupted
    assert not controller.running
    assert threading.active_count() == threads


def test_a_loop_by_steps_certifies_at_the_end():
    model, optimizer = parts()
    with stepping(model, optimizer, epochs=1, constraints=[limit(0.0)]) as controller:
        by_steps(controller, model, optimizer)
        with pytest.raises(CannotCertify) as caught:
            controller.finish()
    assert caught.value.best is model


def test_steps_and_epochs_are_not_mixed():
    with pytest.raises(InvalidInputError, match="`validate` must be given"):
        Controller(*parts(), epochs=2).after_step(1.0)
    with pytest.raises(InvalidInputError, match="`steps_per_epoch` must be a whole number"):
        Controller(*parts(), epochs=2, validate=lambda: {"val_loss": 1.0})
    model, optimizer = parts()
    with stepping(model, optimizer) as controller:
        with pytest.raises(InvalidInputError, match="must tell of steps"):
            controller.after_epoch({"val_loss": 1.0})
        by_steps(controller, model, optimizer)
        with pytest.raises(InvalidInputError, match="the run is over"):
            controller.after_step(1.0)
