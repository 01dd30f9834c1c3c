"""With a constraint that holds, policy="constant" is a loop written by hand, bit for bit."""

import random

import numpy as np
import pytest
from torch_runs import TRAIN, VALIDATION, same

from rlhf_tune.safety import constraint

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from rlhf_tune_integrations.pytorch import fit

nn, LOSS = torch.nn, torch.nn.functional.cross_entropy
EPOCHS = 3


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(2, 5, batch_first=True, dropout=0.2, num_layers=2), None
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.cell(x.view(len(x), 3, 2))[0][:, -1])


MODELS = {
    "plain": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.4), nn.Linear(8, 2)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
    "recurrent": Recurrent,
}


class Pairs(Dataset):
    """A dataset that draws noise from the global stream of torch."""

    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, i):
        return torch.tensor(TRAIN[0][i]) + 0.01 * torch.randn(6), torch.tensor(TRAIN[1][i])


def tensors():
    return TensorDataset(*(torch.tensor(part) for part in TRAIN))


def weighted():
    generator = torch.Generator().manual_seed(5)
    return WeightedRandomSampler(np.linspace(1, 2, 200), 200, generator=generator)


DATA = {
    "pair": lambda: TRAIN,
    "tensors": lambda: tuple(torch.tensor(part) for part in TRAIN),
    "dataset": tensors,
    "drawing dataset": Pairs,
    "loader": lambda: DataLoader(tensors(), batch_size=20, shuffle=True),
    "sampler with a generator": lambda: DataLoader(tensors(), batch_size=20, sampler=weighted()),
    "drop_last": lambda: DataLoader(tensors(), batch_size=48, shuffle=True, drop_last=True),
}


def curious(model):
    """A measure that does whatever it should not."""
    model.train()
    x = torch.tensor(VALIDATION[0])
    for _ in range(2):
        model(x * 3 + torch.randn(len(x), 1))
    np.random.shuffle(np.arange(5))  # noqa: NPY002
    random.random()
    return 1.0


def trained(build, data, train):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, data())
    streams = torch.rand(2).tolist(), np.random.random(), random.random()  # noqa: NPY002
    return model, streams


def by_hand(model, optimizer, data):
    if isinstance(data, tuple):
        data = TensorDataset(*(torch.as_tensor(part) for part in data))
    if not isinstance(data, DataLoader):
        data = DataLoader(data, batch_size=32, shuffle=True)
    model.train()
    for _ in range(EPOCHS):
        for x, y in data:
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()


def by_fit(model, optimizer, data):
    watched = [constraint("curious", curious, at_least=0.5)]
    fit(
        model, optimizer, LOSS, data, VALIDATION,
        epochs=EPOCHS, policy="constant", constraints=watched, verbose=0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_a_measure_changes_nothing_of_training(model, kind):
    ours, streams = trained(MODELS[model], DATA[kind], by_fit)
    theirs, expected = trained(MODELS[model], DATA[kind], by_hand)
    assert same(ours, theirs)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b)
    assert streams == expected


def test_modes_are_those_of_each_module_while_training_and_evaluation_while_measuring():
    seen = []
    model = MODELS["batch norm"]()
    model[1].eval()  # frozen on purpose

    def modes(measured):
        seen.append([module.training for module in measured.modules()])
        return 1.0

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watched = [constraint("modes", modes, at_least=0)]
    fit(
        model, optimizer, LOSS, TRAIN, VALIDATION,
        epochs=2, policy="constant", constraints=watched, verbose=0,
    )  # fmt: skip
    assert len(seen) == 3  # before training, and after each epoch
    assert not np.any(seen)
    assert model[0].training
    assert not model[1].training
