"""What the tests of adapters share whose frameworks own the training loop."""

from contextlib import ExitStack

import numpy as np
import pytest

from rlhf_tune.testing import TrainerContract, outside

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 6)).astype(np.float32)
Y = (X[:, 0] + 0.5 * X[:, 1] * X[:, 2] > 0).astype(np.int64)
TRAIN, VALIDATION = (X[:104], Y[:104]), (X[104:], Y[104:])
LOSS = torch.nn.functional.cross_entropy


def network() -> torch.nn.Module:
    """With what is hard to replay."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(16, 2),
    )


def val_loss(model) -> float:
    """In one batch, in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        loss = LOSS(model(torch.from_numpy(VALIDATION[0])), torch.from_numpy(VALIDATION[1]))
    for module, mode in modes:
        module.training = mode
    return float(loss)


class LoopContract(TrainerContract):
    """The contract, for an adapter of which only `fit` is public.

    A subclass has `begin()`, which calls `fit` on a fresh model.
    """

    owns_order = False
    batch_sizes = ()

    @pytest.fixture(autouse=True)
    def _loops_end(self):
        with ExitStack() as self.loops:
            yield

    def begin(self) -> None:
        raise NotImplementedError

    def make(self):
        return self.loops.enter_context(outside(self.begin))

    def state(self, trainer):
        values = {f"model.{k}": v.clone() for k, v in trainer.model.state_dict().items()}
        for i, state in trainer._optimizer.state_dict()["state"].items():
            values |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        values["stream"] = torch.get_rng_state()
        return {name: value.numpy().copy() for name, value in values.items()}
