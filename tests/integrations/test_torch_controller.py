"""`Controller` for torch: loops written by hand."""

import math

import pytest
from torch_runs import LOSS, TRAIN, limit, network, parts, same, val_loss

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Move

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from rlhf_tune_integrations.pytorch import Controller  # noqa: E402


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
