"""A torch run that was killed ends as one that was not, bit for bit."""

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune.safety.custom import constraint

torch = pytest.importorskip("torch")

from killed import entries, killed_after
from torch.utils.data import DataLoader, Dataset
from torch_runs import LOSS, TRAIN, VALIDATION, X, Y

from rlhf_tune_integrations.pytorch import TorchTrainer, fit
from rlhf_tune_integrations.pytorch.saving import loaded, saved


class Noisy(Dataset):
    """Draws from the streams for every sample, as augmentation does."""

    def __len__(self):
        return 200

    def __getitem__(self, i):
        return torch.from_numpy(X[i]) + 0.01 * torch.randn(6), int(Y[i])


def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU()
    return torch.nn.Sequential(*layers, torch.nn.Dropout(0.3), torch.nn.Linear(16, 2))


def run(folder=None, optimizer=torch.optim.Adam, data=TRAIN, wraps=None, **arguments):
    """Fit a fresh model: the model, its optimizer and the history."""
    model = network()
    optimizer = optimizer(model.parameters(), lr=1e-3)
    more = wraps(model, optimizer) if wraps else {}
    arguments = {"epochs": 4, "verbose": 0, "checkpoint": folder, **more, **arguments}
    return model, optimizer, fit(model, optimizer, LOSS, data, VALIDATION, **arguments)


def everything(model, optimizer):
    moments = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    rates = [torch.as_tensor(group["lr"]) for group in optimizer.param_groups]
    tensors = [*model.state_dict().values(), *rates, torch.get_rng_state()]
    return [
        t.clone().numpy()
        for t in (*tensors, *(torch.as_tensor(m) for m in moments if m is not None))
    ]


def scheduled(model, optimizer):
    return {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=28)}


def accumulating(model, optimizer):
    count = [0]

    def step(batch):
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        count[0] += 1
        if count[0] % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    class Count:
        def state_dict(self):
            return {"count": count[0]}

        def load_state_dict(self, state):
            count[0] = state["count"]

    return {"train_step": step, "state": (Count(),)}


FLOOR = RobustAccuracy(*VALIDATION, eps=0.1, bounds=(-10.0, 10.0), at_least=0.2)
KINDS = {
    "plain": {},
    "seeded": {"seed": 3, "metrics": ["accuracy"]},
    "long": {"epochs": 14, "policy": "dqn"},
    "SGD": {"optimizer": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)},
    "AdamW": {"optimizer": lambda p, lr: torch.optim.AdamW(p, torch.tensor(lr), foreach=False)},
    "scheduled": {"policy": "constant", "wraps": scheduled},
    "accumulating": {"wraps": accumulating},
    "augmented": {"data": Noisy()},
    "loader": {"data": DataLoader(Noisy(), batch_size=20, shuffle=True, drop_last=True)},
    "constrained": {"constraints": [constraint("norm", lambda m: 0.1, at_least=0.0)]},
    "seldom verified": {
        "constraints": [constraint("norm", lambda m: 0.1, at_least=0.0)],
        "verify_every": 3,
    },
    "reaching": {"constraints": [FLOOR], "reach": True},
    "reaching, seldom verified": {"constraints": [FLOOR], "reach": True, "verify_every": 2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writes", [1, 2, 5])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, kind, writes):
    arguments = KINDS[kind]
    model, optimizer, history = run(**arguments)
    expected = everything(model, optimizer)
    with killed_after(writes):
        run(tmp_path, **arguments)
    model, optimizer, resumed = run(tmp_path, **arguments)
    for a, b in zip(everything(model, optimizer), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert entries(resumed) == entries(history)


def test_writing_changes_nothing_and_a_finished_run_returns_at_once(tmp_path):
    model, optimizer, plain = run()
    expected = everything(model, optimizer)
    for _ in range(2):  # the second time it is over
        model, optimizer, history = run(tmp_path)
        for a, b in zip(everything(model, optimizer), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        assert entries(history) == entries(plain)
    stood = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stood


def wider(model, optimizer):
    model[4] = torch.nn.Linear(16, 3)
    return {}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"wraps": wider}, "weights"),
        ({"optimizer": torch.optim.SGD}, "optimizer"),
        ({"optimizer": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.5, 0.9))}, "optimizer"),
        ({"data": (X[:150], Y[:150])}, "samples"),
        ({"epochs": 5}, "epochs"),
        ({"batch_size": 16}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"policy": "bold"}, "policy"),
    ],
    ids=["weights", "optimizer", "options", "samples", "epochs", "batch_size", "seed", "policy"],
)
def test_another_run_is_refused_before_anything_changes(tmp_path, other, said):
    with killed_after(2):
        run(tmp_path)
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidInputError, match=f"there '{said}' is .* delete the folder"):
        run(tmp_path, **other)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_a_rate_that_the_run_has_moved_is_no_other_optimizer(tmp_path):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    arguments = {"epochs": 4, "verbose": 0, "checkpoint": tmp_path}
    first = fit(model, optimizer, LOSS, TRAIN, VALIDATION, **arguments)
    again = fit(model, optimizer, LOSS, TRAIN, VALIDATION, **arguments)
    assert entries(first) == entries(again)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "complex64", "int8", "bool", "float64"])
def test_tensors_of_every_type_come_back(kind):
    model = network()
    model.register_buffer("extra", torch.randn(3, 2).to(getattr(torch, kind)))
    optimizer = torch.optim.Adam(model.parameters())
    trainer = TorchTrainer(model, optimizer, LOSS, TRAIN, VALIDATION)
    kept = trainer.snapshot()
    back = loaded(saved(kept))
    for a, b in zip(kept[0].tensors, back[0].tensors, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_a_state_that_cannot_be_written_is_said_at_the_first_write(tmp_path):
    class Opaque:
        def state_dict(self):
            return {"what": {1, 2}}

        def load_state_dict(self, state):
            pass

    with pytest.raises(InvalidInputError, match="a set: "):
        run(tmp_path, state=(Opaque(),))


def test_what_was_taken_up_is_shown(tmp_path, capsys):
    floor = [constraint("norm", lambda m: 0.1, at_least=0.0)]
    with killed_after(8):
        run(tmp_path, constraints=floor)
    run(tmp_path, constraints=floor, verbose=1)
    said = capsys.readouterr().out
    assert said.startswith("taken up from its checkpoint, after 2 epochs\nepoch   3")
    assert "verification of the constraints took" in said.split("\n")[-2]
