"""`fine_tune` for PyTorch: what is returned, odd models, seeds, constraints."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tuned_models import X, Y, cnn

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.fine_tuning.driver import KNOWN
from rlhf_tune.safety.custom import constraint
from rlhf_tune_integrations.pytorch import TorchTrainer, fine_tune

VALIDATION = (X[40:], Y[40:])


def tuned(model: torch.nn.Module, **options: Any) -> Any:
    options = {"validation_data": VALIDATION, "epochs": 5, "seed": 0, "verbose": 0} | options
    return fine_tune(model, X[:40], Y[:40], **options)


def accuracy(model: torch.nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        found = model(torch.from_numpy(VALIDATION[0])).argmax(1).numpy()
    return float((found == VALIDATION[1]).mean())


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_search_compares_plans_and_hands_back_the_best() -> None:
    model = cnn()
    start = accuracy(cnn())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    found = tuned(model, optimizer=optimizer, epochs=20, policy="search")
    assert found.model is model
    rated = ("tune", "tune at 0.32 x rate", "tune at 3.2 x rate")
    names = ("stem", "blocks", "head", "all", "head, then all")
    assert set(found.tried) == {f"{rate} {name}" for rate in rated for name in names}
    assert accuracy(model) == pytest.approx(max(found.tried.values()))
    assert accuracy(model) > start == pytest.approx(found.start)
    assert 2.7 < found.costs["budget"] <= 3.0
    assert found.costs["weighted"] == pytest.approx(20 * found.costs["budget"])
    assert 0 < found.costs["weighted"] < found.costs["epochs"]
    last = found.schedule[found.kept - 1]
    assert last.metric == pytest.approx(accuracy(model))
    text = str(found)
    assert "val_accuracy" in text
    assert "compared: " in text


def test_the_picture_shows_each_decision() -> None:
    pytest.importorskip("matplotlib")
    axes = tuned(cnn(), policy="search").plot().axes[0]
    assert axes.get_ylabel() == "val_accuracy"
    assert len(axes.lines[0].get_xdata()) >= 2


def test_the_default_is_the_search() -> None:
    assert tuned(cnn()).tried == tuned(cnn(), policy="search").tried


@pytest.mark.parametrize("policy", ["search", "dqn"])
def test_the_same_seed_gives_the_same_model(policy: str) -> None:
    one, other = (tuned(cnn(), policy=policy) for _ in range(2))  # `cnn` seeds dropout too
    assert one.schedule == other.schedule
    assert same(one.model, other.model)


def test_the_shipped_network_stays_within_the_budget_and_harms_nothing() -> None:
    model = cnn()
    start = accuracy(cnn())
    found = tuned(model, policy="dqn", budget=2.0)
    assert found.costs["budget"] <= 2.0 + 1e-9
    assert accuracy(model) >= start
    assert not found.tried


def test_an_agent_of_the_users_decides() -> None:
    class Always:
        def act(self, observation: Any, mask: Any) -> int:
            return 2 * len(KNOWN) + 1  # tune the head

    model, first = cnn(), cnn()
    found = tuned(model, policy=Always(), groups={"a": "0", "b": "4", "c": "7"})
    assert {each.group for each in found.schedule} == {"c"}
    assert torch.equal(model[0].weight, first[0].weight)


def test_groups_that_are_not_named_are_never_touched() -> None:
    model, first = cnn(), cnn()
    tuned(model, groups=["7"])
    assert torch.equal(model[0].weight, first[0].weight)
    assert torch.equal(model[4].weight, first[4].weight)


def test_a_floor_holds_for_what_is_handed_back() -> None:
    model = cnn()
    steady = constraint("bias", lambda m: 1.0 - float(m[7].bias.detach().abs().max()), at_least=0.0)
    assert tuned(model, constraints=[steady]).model is model
    never = constraint("never", lambda m: 0.0, at_least=1.0)
    with pytest.raises(CannotCertify, match="never = 0 for a floor of 1"):
        tuned(cnn(), constraints=[never])


def test_regression_goes_by_the_loss() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4), torch.nn.Linear(4, 1))
    target = X.sum((1, 2, 3), keepdims=False)[:, None]
    found = fine_tune(
        model,
        X[:40],
        target[:40],
        validation_data=(X[40:], target[40:]),
        loss_fn=torch.nn.functional.mse_loss,
        epochs=5,
        seed=0,
        verbose=0,
    )
    assert found.monitor == "val_loss"
    assert min(found.tried.values()) <= found.start


class Shared(torch.nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(36, 36)
        self.second = torch.nn.Linear(36, 36)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(36, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.second(self.first(x.flatten(1)).relu()).relu())


class Bare(torch.nn.Module):
    """No layers, only weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = torch.nn.Parameter(0.1 * torch.randn(36, 8))
        self.w2 = torch.nn.Parameter(0.1 * torch.randn(8, 2))

    def forward(self, x: torch.Tensor) -> Any:
        return (x.flatten(1) @ self.w1).relu() @ self.w2


class Recurrent(torch.nn.Module):
    """An LSTM over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(6, 8, batch_first=True)
        self.last = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.rnn(x.squeeze(1))[0][:, -1])


class Attending(torch.nn.Module):
    """A small transformer over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1, 6, 8))
        self.embed = torch.nn.Linear(6, 8)
        self.block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.block(self.embed(x.squeeze(1)) + self.place).mean(1))


@pytest.mark.parametrize("kind", [Shared, Bare, Recurrent, Attending])
@pytest.mark.parametrize("policy", ["search", "dqn"])
def test_models_of_other_kinds(kind: type[torch.nn.Module], policy: str) -> None:
    torch.manual_seed(0)
    found = tuned(kind(), policy=policy, epochs=2)
    assert found.schedule
    assert np.isfinite([each.metric for each in found.schedule]).all()


def test_a_single_layer_is_one_group() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
    assert {name.split()[-1] for name in tuned(model, policy="search").tried} == {"all"}


def test_compiled_graphs_and_parametrised_weights() -> None:
    model = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(36, 8)),
        torch.nn.ReLU(),
        torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(8, 2)),
    )
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("3.")}
    tuned(model, groups=["1"])
    for key, value in frozen.items():  # the power iteration of a frozen layer rests too
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "`budget` must be above 0"),
        ({"budget": float("nan")}, "`budget` must be above 0"),
        ({"epochs": -1}, "`epochs` must be above 0"),
        ({"budget": 0.1, "epochs": 0.1}, "a step for each of 5 plans, but allows 1"),
        ({"policy": "best"}, "`policy` must be one of"),
        ({"groups": "nothing"}, "none is called 'nothing'"),
        ({"monitor": "val_auc"}, "`monitor` must be one of"),
    ],
)
def test_what_breaks_a_rule_is_refused(options: dict[str, Any], message: str) -> None:
    model = cnn()
    with pytest.raises(InvalidInputError, match=message):
        tuned(model, **options)
    assert same(model, cnn())


def test_frozen_models_and_models_without_weights_are_refused() -> None:
    for model in (cnn().requires_grad_(False), torch.nn.Flatten()):
        with pytest.raises(InvalidInputError, match="all are frozen or there is none"):
            tuned(model)


class Ending:
    """An agent that tunes the head twice and then raises."""

    def __init__(self, error: type[BaseException]) -> None:
        self.left, self.error = 2, error

    def act(self, observation: Any, mask: Any) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return 2 * len(KNOWN) + 1


def test_ctrl_c_hands_back_the_best_so_far() -> None:
    model = cnn()
    found = tuned(model, policy=Ending(KeyboardInterrupt))
    assert found.interrupted
    assert len(found.schedule) == 2
    best = max(found.start, *(each.metric for each in found.schedule))
    assert accuracy(model) == pytest.approx(best)


def test_ctrl_c_in_a_search_hands_back_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, train = [], TorchTrainer.train

    def interrupted(self: TorchTrainer, steps: int) -> Any:
        calls.append(steps)
        if len(calls) == 30:  # in the second round
            raise KeyboardInterrupt
        return train(self, steps)

    monkeypatch.setattr(TorchTrainer, "train", interrupted)
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    found = tuned(model, optimizer=optimizer, epochs=20)
    assert found.interrupted
    assert len(found.tried) == 15
    assert accuracy(model) == pytest.approx(max(found.tried.values()))
    assert accuracy(model) > found.start


def test_an_error_leaves_the_model_at_its_best_with_nothing_frozen() -> None:
    model = cnn()
    with pytest.raises(ZeroDivisionError):
        tuned(model, policy=Ending(ZeroDivisionError))
    assert all(p.requires_grad for p in model.parameters())
    assert accuracy(model) >= accuracy(cnn())


def test_data_that_are_not_finite_are_named() -> None:
    x = X[:40].copy()
    x[3] = np.nan
    with pytest.raises(DivergedError, match="x of row"):
        fine_tune(cnn(), x, Y[:40], validation_data=VALIDATION, policy="search", verbose=0)


def test_a_rate_that_is_too_large_for_every_group_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4), torch.nn.Linear(4, 1))
    first = model[1].weight.clone()
    target = X.sum((1, 2, 3))[:, None]
    with pytest.raises(DivergedError, match="give the optimizer a smaller rate"):
        fine_tune(
            model,
            X[:40],
            target[:40],
            validation_data=(X[40:], target[40:]),
            loss_fn=torch.nn.functional.mse_loss,
            optimizer=torch.optim.SGD(model.parameters(), 1e8),
            verbose=0,
        )
    assert torch.equal(model[1].weight, first)
