"""TorchTrainer keeps the contract, and torch's own loop is what it repeats bit for bit."""

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.testing import Fitted, TrainerContract

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset, TensorDataset

from rlhf_tune_integrations.pytorch import TorchTrainer, fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(55, 6)).astype(np.float32)
Y = (X[:, 0] + 0.5 * RNG.normal(size=55) > 0).astype(np.int64)
LOSS = torch.nn.functional.cross_entropy


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(8, 2),
    )


class Numbered(Dataset):
    """Remembers which samples were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int):
        self.asked.append(int(i))
        return torch.from_numpy(X[i]), int(Y[i])

    def read(self) -> list[int]:
        asked, self.asked = self.asked, []
        return asked


def everything(trainer):
    """All that training changes, by name."""
    values = {f"model.{k}": v.clone() for k, v in trainer.model.state_dict().items()}
    for i, state in trainer._optimizer.state_dict()["state"].items():
        values |= {f"optimizer.{i}.{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    values["stream"] = torch.get_rng_state()
    return {name: value.numpy() for name, value in values.items()}


def make(optimizer=torch.optim.Adam, data=None, **arguments):
    model = network()
    arguments = {"seed": 0, "batch_size": 8, **arguments}
    return TorchTrainer(
        model,
        optimizer(model.parameters(), lr=1e-3),
        LOSS,
        (X, Y) if data is None else data,
        (X, Y),
        **arguments,
    )


def test_the_spread_is_that_of_the_losses_of_the_batches():
    single = make(batch_size=11)
    losses = [single.train(1)["loss"] for _ in range(5)]
    metrics = make(batch_size=11).train(5)
    assert metrics["loss"] == pytest.approx(np.mean(losses))
    assert metrics["spread"] == pytest.approx(np.std(losses), rel=1e-4)


class TestAdam(TrainerContract):
    def make(self):
        return make()

    def state(self, trainer):
        return everything(trainer)

    def watched(self):
        data = Numbered()
        return make(data=data), data.read

    def fitted(self, steps, **driving):
        model, batches = network(), []
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        counting = optimizer.register_step_post_hook(lambda *_: batches.append(1))
        data = {"batch_size": 8, "steps": steps, "seed": 0, "verbose": 0}
        history = fit(model, optimizer, LOSS, (X, Y), (X, Y), **data, **driving)
        counting.remove()
        with torch.no_grad():
            loss = LOSS(model.eval()(torch.from_numpy(X)), torch.from_numpy(Y))
        return Fitted(history, len(batches), float(loss))

    def scheduled(self):
        def begin():
            model = network()
            optimizer = torch.optim.Adam(model.parameters())
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            fit(model, optimizer, LOSS, (X, Y), (X, Y), epochs=1, scheduler=schedule)

        return begin


class TestMomentumOverADataset(TestAdam):
    def make(self):
        def sgd(parameters, lr):
            return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-3)

        return make(sgd, Numbered())


class TestOverADataLoader(TestAdam):
    def make(self):
        data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        loader = DataLoader(data, batch_size=8, shuffle=True)
        return make(data=loader, seed=None, batch_size=None)


class TestOwnStepWithAccumulation(TestAdam):
    """Clipping, a gradient scaler, and an optimizer step every second batch."""

    def make(self):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        counter = Counter()

        def step(batch):
            x, y = batch
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = LOSS(model(x).float(), y)
            scaler.scale(loss / 2).backward()
            counter.count += 1
            if counter.count % 2 == 0:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            return loss

        trainer = TorchTrainer(
            model,
            optimizer,
            LOSS,
            (X, Y),
            (X, Y),
            batch_size=8,
            train_step=step,
            state=(scaler, counter),
            seed=0,
        )
        trainer.parts = scaler, counter
        return trainer

    def state(self, trainer):
        scaler, counter = trainer.parts
        more = {f"scaler.{k}": v for k, v in scaler.state_dict().items()}
        grads = {
            f"grad.{i}": p.grad.numpy().copy()
            for i, p in enumerate(trainer.model.parameters())
            if p.grad is not None
        }
        return everything(trainer) | more | grads | {"count": counter.count}


class Counter:
    count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def plain_loop(epochs: int, **loader):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = DataLoader(data, batch_size=8, shuffle=True, **loader)
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("drop_last", [False, True])
def test_it_repeats_a_plain_loop_bit_for_bit(seed, drop_last):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    plain, _ = plain_loop(3, generator=generator, drop_last=drop_last)
    stream = torch.get_rng_state()
    if drop_last:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        loader = DataLoader(data, batch_size=8, shuffle=True, generator=generator, drop_last=True)
        trainer = make(data=loader, seed=None, batch_size=None)
    else:
        trainer = make(seed=seed)
    for _ in range(3):
        trainer.train(trainer.steps_per_epoch)
        trainer.evaluate()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("change", ["add", "remove"])
def test_going_back_is_refused_once_the_model_has_other_parameters(change):
    trainer = make()
    kept = trainer.snapshot()
    if change == "add":
        trainer.model.append(torch.nn.Linear(2, 2))
    else:
        del trainer.model[4]
    with pytest.raises(InvalidInputError, match=r"must not be added .* it had 9 of them and has"):
        trainer.restore(kept)
