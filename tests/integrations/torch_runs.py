"""Small runs of `fit` for torch."""

import numpy as np
import pytest

from rlhf_tune.safety.custom import constraint

torch = pytest.importorskip("torch")


from rlhf_tune_integrations.pytorch import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
TRAIN, VALIDATION = (X[:200], Y[:200]), (X[200:], Y[200:])
LOSS = torch.nn.functional.cross_entropy


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))


def parts(optimizer=torch.optim.Adam, lr=1e-3, **options):
    model = network()
    return model, optimizer(model.parameters(), lr=lr, **options)


def fitted(model=None, optimizer=None, **arguments):
    if model is None:
        model, optimizer = parts()
    arguments = {"epochs": 4, "seed": 0, "verbose": 0, "metrics": ["accuracy"], **arguments}
    return model, fit(model, optimizer, LOSS, TRAIN, VALIDATION, **arguments)


def val_loss(model):
    with torch.no_grad():
        return float(LOSS(model(torch.from_numpy(VALIDATION[0])), torch.from_numpy(VALIDATION[1])))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def limit(at_most):
    """A constraint on the size of the weights, which training makes larger."""

    def norm(model):
        return float(sum(p.detach().square().sum() for p in model.parameters()))

    return constraint("norm", norm, at_most=at_most)
