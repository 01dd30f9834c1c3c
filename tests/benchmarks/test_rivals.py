"""Optimizers of others that the benchmarks compare with."""

import pytest

torch = pytest.importorskip("torch")

from benchmarks.runs.rivals import MoMo, Muon


def least_squares(kind, lr, steps):
    torch.manual_seed(0)
    x = torch.randn(200, 5)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Linear(8, 1))
    optimizer = kind(model.parameters(), lr)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x)[:, 0] - x @ torch.arange(5.0)).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    for _ in range(steps):
        if kind is MoMo:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return losses


def test_momo_takes_the_step_that_its_model_of_the_loss_allows():
    """Its first step is Polyak's: the loss over the squared gradient, below the given rate."""
    weight = torch.nn.Parameter(torch.tensor([3.0, -1.0]))
    optimizer = MoMo([weight], 1e9)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert weight.tolist() == pytest.approx([1.5, -0.5])  # 10 / (4 * 10) times the gradient
    losses = least_squares(MoMo, 1e3, 300)
    assert losses[-1] < 1e-2 * losses[0]


def test_muon_moves_matrices_and_all_else():
    losses = least_squares(Muon, 0.05, 200)
    assert losses[-1] < 0.5 * losses[0]
    fresh = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Linear(8, 1))
    optimizer = Muon(fresh.parameters(), 0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    for group in optimizer.param_groups:
        assert group["lr"] == 0.1
