"""torch `fit` never ends in silence: it names what is not finite, and a failure keeps the best."""

import math

import numpy as np
import pytest
from torch_runs import LOSS, TRAIN, VALIDATION, fitted, network, parts, same, val_loss

from rlhf_tune.errors import DivergedError, InvalidInputError

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset

from rlhf_tune_integrations.pytorch import Controller, fit
from rlhf_tune_integrations.pytorch.batches import Feed

POLICIES = ("default", "grow", "dqn", "bold", "constant")


def spoiled(data, row, *, y=False):
    """A pair of arrays with a NaN in a row of x, or of y as floats."""
    x, targets = data[0].copy(), data[1].astype(np.float32)[:, None]
    (targets if y else x)[row] = math.nan
    return x, targets if y else data[1]


class Pairs(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, row):
        return self.data[0][row], self.data[1][row]


KINDS = {
    "arrays": tuple,
    "a dataset": Pairs,
    "a loader": lambda data: DataLoader(Pairs(data), batch_size=20, shuffle=True),
    "workers": lambda data: DataLoader(Pairs(data), batch_size=50, num_workers=1),
}


def run(train=TRAIN, validation=VALIDATION, loss=LOSS, model=None, optimizer=None, **arguments):
    if model is None:
        model, optimizer = parts()
    return fit(
        model, optimizer, loss, train, validation, **{"epochs": 12, "verbose": 0, **arguments}
    )


def squares(outputs, y):
    return (outputs - y).square().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["default", "constant"])
def test_nan_in_training_data_is_named_by_its_row(kind, policy):
    data = KINDS[kind](spoiled(TRAIN, 17))
    model, optimizer = parts()
    with pytest.raises(DivergedError, match=r"train_data .* in x of row 17\b") as caught:
        run(data, model=model, optimizer=optimizer, policy=policy)
    assert same(model, network())
    history = caught.value.history
    assert 1 <= len(history.discarded) <= 4
    assert {stretch.verdict for stretch in history.discarded} == {"diverged"}


@pytest.mark.parametrize("policy", POLICIES)
def test_nan_in_targets_is_named_by_its_row(policy):
    with pytest.raises(DivergedError, match=r"first seen in y of row 3\b"):
        run(
            spoiled(TRAIN, 3, y=True),
            spoiled(VALIDATION, slice(0), y=True),
            squares,
            policy=policy,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("y", [False, True])
def test_nan_in_validation_data_is_named_by_its_row_before_training(kind, y):
    loss = squares if y else LOSS
    data = KINDS[kind](spoiled(VALIDATION, 101, y=y))
    if kind == "a loader":
        data = DataLoader(data.dataset, batch_size=20)
    with pytest.raises(InvalidInputError, match=rf"first in {'y' if y else 'x'} of row 101\b"):
        run(spoiled(TRAIN, slice(0), y=y), data, loss)


def test_a_batch_of_finite_values_whose_loss_is_not_is_named():
    ignored = VALIDATION[1].copy()
    ignored[60:] = -100
    loader = DataLoader(Pairs((VALIDATION[0], ignored)), batch_size=30)
    with pytest.raises(InvalidInputError, match=r"begins in batch 2 .* rows 60 to 89"):
        run(validation=loader)
    with pytest.raises(InvalidInputError, match="the function given as validation_data"):
        run(validation=lambda: {"val_loss": math.nan})


def ill(kind, since):
    """A loss that is not finite in training from some step on."""
    steps = 0

    def loss(outputs, y):
        nonlocal steps
        steps += outputs.requires_grad
        wrong = outputs.requires_grad and steps > since
        if kind == "gradient":
            return LOSS(outputs, y) + (torch.sqrt((outputs * 0).sum()) if wrong else 0)
        return LOSS(outputs, y) * (kind if wrong else 1)

    return loss


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", [math.nan, math.inf, "gradient"])
@pytest.mark.parametrize("since", [0, 40])
def test_a_loss_that_is_not_finite_ends_the_run_within_five_stretches(policy, kind, since):
    model, optimizer = parts()
    with pytest.raises(DivergedError, match=r"would at any; look for .* in the loss") as caught:
        run(loss=ill(kind, since), model=model, optimizer=optimizer, policy=policy)
    history = caught.value.history
    assert len(history.discarded) <= 4
    assert bool(history.epoch) == (since > 0)
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
    if history.epoch:
        assert val_loss(model) <= min(history.history["val_loss"]) + 1e-6


def test_a_scheduler_keeps_its_rate_and_the_cause_is_found_all_the_same():
    model, optimizer = parts()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.raises(DivergedError, match="row 17"):
        run(spoiled(TRAIN, 17), model=model, optimizer=optimizer, scheduler=scheduler,
            policy="constant")  # fmt: skip


def test_weights_that_are_nan_are_refused_before_training():
    model, optimizer = parts()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(InvalidInputError, match="weights must be finite before training"):
        run(validation=lambda: {"val_loss": 1.0}, model=model, optimizer=optimizer)


@pytest.mark.parametrize("raised", [OSError("disk full"), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("policy", ["default", "constant"])
def test_what_a_step_raises_leaves_the_best_state_and_the_history(raised, policy):
    model, optimizer = parts(lr=0.01)
    steps = 0

    def step(batch):
        nonlocal steps
        steps += 1
        if steps == 60:
            raise raised
        optimizer.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(type(raised)) as caught:
        fitted(model, optimizer, train_step=step, policy=policy, epochs=40, metrics=())
    history = caught.value.history
    assert history.epoch
    assert caught.value.best is model
    assert val_loss(model) <= min(history.history["val_loss"]) + 1e-6
    assert "the model is at its best state" in caught.value.__notes__[0]


@pytest.mark.parametrize("name", ["quality", "score_of_mine"])
def test_a_metric_of_unknown_direction_needs_a_mode(name):
    def metric(outputs, y):
        return outputs.mean()

    metric.__name__ = name
    with pytest.raises(InvalidInputError, match=f"'auto' for 'val_{name}'"):
        run(metrics=[metric], monitor=f"val_{name}")
    model, optimizer = parts()
    with pytest.raises(InvalidInputError, match=f"'auto' for 'val_{name}'"):
        Controller(model, optimizer, epochs=2, monitor=f"val_{name}")
    assert run(metrics=[metric], monitor=f"val_{name}", mode="max", epochs=2).epoch


def test_optimizers_that_would_train_nothing_are_refused():
    model, _ = parts()
    for weights in (network().parameters(), model.parameters()):
        optimizer = torch.optim.Adam(weights)
        model.requires_grad_(False)
        for make in (run, lambda model, optimizer: Controller(model, optimizer, epochs=2)):
            with pytest.raises(InvalidInputError, match="must hold parameters of the model"):
                make(model=model, optimizer=optimizer)


def test_a_controller_never_hands_back_weights_that_are_not_finite():
    model, optimizer = parts()
    controller = Controller(model, optimizer, epochs=4)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    assert controller.after_epoch({"val_loss": 0.5}).verdict == "diverged"
    assert same(model, network())


def test_batches_are_looked_at_for_a_pass_after_a_divergence_and_no_longer(monkeypatch):
    looked = []
    monkeypatch.setattr(Feed, "fault", lambda self, batch: looked.append(batch))
    model, optimizer = parts(torch.optim.SGD, lr=1e8)
    history = run(model=model, optimizer=optimizer, loss=squared_logits, policy="bold", epochs=40)
    assert "diverged" in {stretch.verdict for stretch in history.discarded}
    steps = sum(stretch.steps for stretch in history.discarded) + 7 * len(history.epoch)
    assert 0 < len(looked) < steps


def squared_logits(outputs, y):
    return LOSS(outputs, y) + outputs.square().mean()
