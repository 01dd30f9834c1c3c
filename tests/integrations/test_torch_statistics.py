"""Statistics of BatchNorm are made anew, and nothing else is touched."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from rlhf_tune_integrations.pytorch import TorchTrainer, fit

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)
    )


def trainer_of(model: nn.Module, **arguments: object) -> TorchTrainer:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = nn.functional.cross_entropy
    return TorchTrainer(model, optimizer, loss, (X, Y), (X, Y), batch_size=16, seed=0, **arguments)


def test_the_mean_over_an_epoch_takes_their_place() -> None:
    model = network()
    trainer = trainer_of(model)
    trainer.train(4)  # an epoch
    assert trainer.refresh()
    with torch.no_grad():
        inside = model[0](torch.from_numpy(X))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    torch.testing.assert_close(norm.running_mean, inside.mean(dim=0))
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 4


def test_training_goes_on_as_if_nothing_had_been() -> None:
    plain, asked = trainer_of(network()), trainer_of(network())
    states = torch.random.get_rng_state()
    plain.train(2)
    end = plain.train(5)["loss"]
    torch.random.set_rng_state(states)
    asked.train(2)
    asked.refresh()
    assert asked.train(5)["loss"] == end
    pairs = zip(plain.model.parameters(), asked.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert all(module.training for module in asked.model.modules())


def test_frozen_layers_keep_theirs() -> None:
    model = network()
    model[1].eval()
    before = model[1].running_mean.clone()
    assert not trainer_of(model).refresh()
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize("affine", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2))])
def test_a_model_without_them_has_nothing_to_refresh(affine: nn.Module) -> None:
    assert not trainer_of(affine).refresh()


def test_a_step_of_the_users_own_says_what_the_model_is_called_on() -> None:
    assert not trainer_of(network(), train_step=lambda batch: 0.0).refresh()


def test_a_run_at_a_high_rate_is_not_rolled_back() -> None:
    """The statistics stand still, which is the worst that a lag can do."""
    model = network()
    model[1].momentum = 0.0
    model[1].running_mean += 30.0
    history = fit(
        model,
        torch.optim.Adam(model.parameters()),
        nn.functional.cross_entropy,
        (X, Y),
        (X, Y),
        epochs=20,
        verbose=0,
        seed=0,
    )
    assert not history.discarded


def test_knowledge_tells_a_trained_model_from_a_fresh_one() -> None:
    trainer = trainer_of(network())
    assert 0.6 < trainer.knowledge() < 1.6
    trainer.set(learning_rate=0.5)
    trainer.train(200)
    assert trainer.knowledge() < 0.3


def test_to_ask_for_knowledge_changes_nothing() -> None:
    plain, asked = trainer_of(network()), trainer_of(network())
    states = torch.random.get_rng_state()
    end = plain.train(7)["loss"]
    torch.random.set_rng_state(states)
    asked.knowledge()
    assert asked.train(7)["loss"] == end


def test_knowledge_is_not_told_of_a_step_of_the_users_own() -> None:
    assert np.isnan(trainer_of(network(), train_step=lambda batch: 0.0).knowledge())


def test_fine_tuning_by_fit_probes_the_given_rate_first() -> None:
    trainer = trainer_of(model := network())
    trainer.set(learning_rate=0.5)
    trainer.train(200)
    history = fit(
        model,
        torch.optim.Adam(model.parameters(), 3e-5),
        nn.functional.cross_entropy,
        (X, Y),
        (X, Y),
        epochs=30,
        batch_size=16,
        verbose=0,
        seed=0,
    )
    assert history.range_test[0].learning_rate == pytest.approx(3e-5)
