"""Forms of data, outputs and losses that torch `fit` takes without a `train_step`."""

import numpy as np
import pytest
from torch_runs import LOSS, TRAIN, VALIDATION, network, same

from rlhf_tune.errors import DivergedError, InvalidInputError

torch = pytest.importorskip("torch")

from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from rlhf_tune_integrations.pytorch import fit

FUNCTIONS = nn.functional


class Stream(IterableDataset):
    """The training data in their order, 200 samples."""

    def __iter__(self):
        return iter(zip(*map(torch.from_numpy, TRAIN), strict=True))


def run(train=TRAIN, validation=VALIDATION, loss=LOSS, model=None, **arguments):
    model = network() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    arguments = {"epochs": 3, "verbose": 0, "seed": 0, "policy": "constant", **arguments}
    return model, fit(model, optimizer, loss, train, validation, **arguments)


# Streams


@pytest.mark.parametrize("loader", [False, True])
def test_a_stream_is_trained_on_in_its_order(loader):
    data = DataLoader(Stream(), batch_size=40) if loader else Stream()
    size = {} if loader else {"batch_size": 40}
    model, history = run(data, steps_per_epoch=5, epochs=2, **size)
    twin = network()
    optimizer = torch.optim.Adam(twin.parameters(), 0.01)
    for _ in range(2):
        for x, y in DataLoader(TensorDataset(*map(torch.from_numpy, TRAIN)), batch_size=40):
            optimizer.zero_grad()
            LOSS(twin(x), y).backward()
            optimizer.step()
    assert same(model, twin)
    assert "batch_size" not in history.history
    assert len(history.epoch) == 2


@pytest.mark.parametrize("policy", ["default", "grow", "dqn", "bold"])
def test_every_policy_drives_a_stream(policy):
    _, history = run(Stream(), steps_per_epoch=7, epochs=12, policy=policy)
    assert history.epoch
    assert min(history.history["val_loss"]) < history.history["val_loss"][0] + 1e-9


def test_a_stream_may_be_cut_at_any_step_and_have_a_budget_in_steps():
    _, history = run(Stream(), steps_per_epoch=3, epochs=None, steps=7, batch_size=64)
    assert len(history.epoch) == 3  # 3 + 3 + 1


def test_nan_in_a_stream_is_named():
    class Spoiled(Stream):
        def __iter__(self):
            for number, (x, y) in enumerate(super().__iter__()):
                yield x * (np.nan if number == 45 else 1), y

    with pytest.raises(DivergedError, match=r"x of row 5 of a batch"):
        run(Spoiled(), steps_per_epoch=5, batch_size=40, epochs=12, policy="default")


class Once(Stream):
    def __init__(self):
        self.left = super().__iter__()

    def __iter__(self):
        return self.left


@pytest.mark.parametrize(
    ("data", "arguments", "said"),
    [
        (Stream(), {}, "must have `steps_per_epoch`"),
        (Stream(), {"steps_per_epoch": 0}, "whole number >= 1"),
        (DataLoader(Stream()), {"steps_per_epoch": 3, "batch_size": 8}, "is its DataLoader's"),
        (TRAIN, {"steps_per_epoch": 3}, "is the length of a stream's epochs"),
        (Once(), {"steps_per_epoch": 7}, "must begin anew where it ends"),
    ],
)
def test_streams_that_cannot_be_driven_are_refused(data, arguments, said):
    with pytest.raises(InvalidInputError, match=said):
        run(data, **arguments)


# Weights of samples


def weights(n):
    return np.random.default_rng(1).random(n).astype(np.float32)


@pytest.mark.parametrize("loss", [FUNCTIONS.cross_entropy, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("form", [tuple, list, "dataset", "loader"])
def test_weights_of_samples_weigh_the_loss(loss, form):
    train, validation = ((*data, weights(len(data[0]))) for data in (TRAIN, VALIDATION))
    if form in ("dataset", "loader"):
        train = TensorDataset(*map(torch.from_numpy, train))
        train = DataLoader(train, batch_size=32, shuffle=True) if form == "loader" else train
    else:
        train = form(train)

    def step(batch):
        x, y, w = batch
        optimizer.zero_grad()
        mean = (FUNCTIONS.cross_entropy(twin(x), y, reduction="none") * w).mean()
        mean.backward()
        optimizer.step()
        return mean

    twin = network()
    optimizer = torch.optim.Adam(twin.parameters(), 0.01)
    torch.manual_seed(3)
    fit(twin, optimizer, LOSS, train, VALIDATION, epochs=3, verbose=0, seed=0, train_step=step,
        policy="constant")  # fmt: skip
    model = network()
    torch.manual_seed(3)
    model, history = run(train, validation, loss, model)
    assert same(model, twin)
    x, y, w = map(torch.from_numpy, validation)
    with torch.no_grad():
        right = (FUNCTIONS.cross_entropy(model(x), y, reduction="none") * w).mean()
    assert history.history["val_loss"][-1] == pytest.approx(float(right), rel=1e-5)


def test_weights_of_zero_leave_samples_out():
    w = (np.arange(200) < 100).astype(np.float32)
    x, y = TRAIN
    other = np.where(w > 0, y, 1 - y)  # wrong where it does not count
    a, _ = run((x, y, w))
    b, _ = run((x, other, w))
    assert same(a, b)


def test_a_loss_of_several_numbers_a_sample_is_averaged_before_it_is_weighed():
    x, w = TRAIN[0], weights(200)
    model = nn.Linear(6, 6)
    _, history = run((x, x, w), (x, x, w), nn.MSELoss(), model)
    with torch.no_grad():
        each = (model(torch.from_numpy(x)) - torch.from_numpy(x)).square().mean(1)
    right = float((each * torch.from_numpy(w)).mean())
    assert history.history["val_loss"][-1] == pytest.approx(right, rel=1e-5)


def test_a_loss_that_cannot_be_weighed_is_refused():
    with pytest.raises(InvalidInputError, match="loss_fn must have a `reduction`"):
        run((*TRAIN, weights(200)), loss=lambda outputs, y: LOSS(outputs, y))


# Outputs


class Two(nn.Module):
    """Of two outputs, in some form."""

    def __init__(self, form):
        super().__init__()
        self.body, self.form = network(), form

    def forward(self, x):
        z = self.body(x)
        return {"logits": z, "norm": z.norm()} if self.form == "dict" else (z, z.norm())


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_outputs_may_be_mappings_and_tuples(form):
    key = "logits" if form == "dict" else 0

    def loss(outputs, y):
        return LOSS(outputs[key], y)

    def accuracy(outputs, y):
        return (outputs[key].argmax(1) == y).float().mean()

    model, history = run(loss=loss, model=Two(form), metrics=[accuracy])
    twin, right = run(metrics=["accuracy"])
    assert same(model.body, twin)
    assert history.history["val_accuracy"] == right.history["val_accuracy"]
    with pytest.raises(InvalidInputError, match="'accuracy' needs one tensor of scores"):
        run(loss=loss, model=Two(form), metrics=["accuracy"])


@pytest.mark.parametrize(
    ("loss", "probability"),
    [
        (nn.BCEWithLogitsLoss(), False),
        (FUNCTIONS.binary_cross_entropy_with_logits, False),
        (nn.BCELoss(), True),
        (FUNCTIONS.binary_cross_entropy, True),
    ],
)
@pytest.mark.parametrize("column", [False, True])
def test_one_output_has_an_accuracy(loss, probability, column):
    data = [(x, y.astype(np.float32)) for x, y in (TRAIN, VALIDATION)]
    data = [(x, y[:, None] if column else y) for x, y in data]
    end = [] if column else [nn.Flatten(0)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1), *([nn.Sigmoid()] if probability else []), *end)
    _, history = run(*data, loss, model, metrics=["accuracy"])
    with torch.no_grad():
        outputs = model(torch.from_numpy(VALIDATION[0])).numpy().ravel()
    right = ((outputs > (0.5 if probability else 0)) == VALIDATION[1]).mean()
    assert 0 < right < 1
    assert history.history["val_accuracy"][-1] == pytest.approx(right)


def test_one_output_of_a_loss_of_ones_own_needs_a_function():
    data = [(x, y.astype(np.float32)[:, None]) for x, y in (TRAIN, VALIDATION)]
    loss = nn.BCEWithLogitsLoss()
    with pytest.raises(InvalidInputError, match="a loss that tells what it is"):
        run(*data, lambda z, y: loss(z, y), nn.Linear(6, 1), metrics=["accuracy"])


def test_a_pair_of_shapes_without_accuracy_is_named():
    data = [(x, y.astype(np.float32)) for x, y in (TRAIN, VALIDATION)]

    def loss(outputs, y):
        return FUNCTIONS.mse_loss(outputs.mean((1, 2)), y)

    model = nn.Sequential(nn.Linear(6, 3), nn.Unflatten(1, (1, 3)))
    with pytest.raises(InvalidInputError, match=r"the shapes \(120, 1, 3\) and \(120,\)"):
        run(*data, loss, model, metrics=["accuracy"])
