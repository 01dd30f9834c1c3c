"""`Controller` for torch: loops written by hand."""

import math

import pytest
from torch_runs import LOSS, TRAIN, limit, parts, val_loss

from rlhf_tune.errors import CannotCertify, InvalidInputError

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
