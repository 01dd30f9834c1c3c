"""`fit` for torch: what is recorded, who owns the rate, what is handed back."""

import math

import numpy as np
import pytest
from torch_runs import LOSS, TRAIN, VALIDATION, X, Y, fitted, limit, network, parts, same, val_loss

from rlhf_tune.agents.network import Network
from rlhf_tune.envs import TuningEnv
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run import dqn_moves
from rlhf_tune.safety.custom import constraint

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from rlhf_tune_integrations.pytorch import Controller, TorchTrainer, fit


def plain(epochs, scheduler=None):
    model, optimizer = parts()
    data = TensorDataset(*map(torch.from_numpy, TRAIN))
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size=32, shuffle=True, generator=generator)
    scheduler = scheduler and scheduler(optimizer)
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
        if scheduler:
            scheduler.step()
    return model, torch.get_rng_state()


def test_constant_equals_a_plain_loop_bit_for_bit():
    reference, stream = plain(4)
    model, history = fitted(policy="constant")
    assert same(model, reference)
    assert torch.equal(torch.get_rng_state(), stream)
    assert history.history["move"] == ["stay"] * 4


def test_the_history_has_the_usual_keys_and_ours():
    rate = constraint("size", lambda model: 5.0, at_most=10)
    model, history = fitted(constraints=[rate], epochs=10)
    assert set(history.history) == {
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "batch_size",
        "move",
        "rolled_back",
        "size",
    }
    assert {len(column) for column in history.history.values()} == {len(history.epoch)}
    assert [probe.learning_rate for probe in history.range_test] == pytest.approx([10**-1.75])
    assert min(history.history["val_loss"]) == pytest.approx(val_loss(model), rel=1e-5)


@pytest.mark.parametrize("policy", ["default", "dqn", "grow", "bold"])
def test_a_driven_run_beats_a_hopeless_rate(policy):
    hopeless, _ = fitted(*parts(lr=1e-6), policy="constant", epochs=10)
    model, _ = fitted(*parts(lr=1e-6), policy=policy, epochs=10)
    assert val_loss(model) < val_loss(hopeless)


def test_growing_batches_keep_the_learning_rate_up_and_lose_no_sample():
    _, history = fitted(policy="grow", epochs=30, batch_size=4)
    sizes = history.history["batch_size"]
    assert sizes == sorted(sizes)
    assert sizes[0] == 4
    assert sizes[-1] == 4 * 4  # eight steps of an epoch are left
    assert {stretch.batch_size for stretch in history.discarded} <= set(sizes)


def test_learned_moves_change_rate_and_batch_between_epochs(monkeypatch):
    monkeypatch.setattr(dqn_moves, "shipped", lambda: eager(rate=-1.0, size=1.0))
    _, history = fitted(policy="dqn", epochs=30, batch_size=4)
    assert history.history["batch_size"][:3] == [4, 4, 8]  # not before there is a slope
    assert set(history.history["batch_size"]) == {4, 8, 16}  # eight steps of an epoch are left
    assert history.history["move"][2] == "rate x0.25, batch x2"
    rates = history.history["learning_rate"]
    whole = math.ceil(len(TRAIN[0]) / 4)
    probed = int(0.02 * 30 * whole) / whole
    warm = (2.5 + probed) / (1.5 + probed)  # the rate warms up meanwhile
    assert rates[2] == pytest.approx(rates[1] / 4 * warm)


def test_learned_moves_change_the_rate_of_a_loop_written_by_hand(monkeypatch):
    monkeypatch.setattr(dqn_moves, "shipped", lambda: eager(rate=1.0, size=0.0))
    model, optimizer = parts(lr=1e-4)
    controller = Controller(model, optimizer, epochs=10, policy="dqn")
    rates = [optimizer.param_groups[0]["lr"]]
    for loss in (1.0, 0.9, 0.8, 0.7):
        controller.after_epoch({"val_loss": loss})
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2e-4, 0.6e-4, 4e-4, 16e-4, 64e-4])


def eager(rate, size):
    """A network for which raising the rate, or the batch size, is worth so much."""
    weight = np.zeros((len(dqn_moves.FEATURES) + 2, 1))
    weight[-2:, 0] = rate, size
    return dqn_moves.RunNetwork(Network([(weight, np.zeros(1))]))


def test_a_diverging_run_is_rolled_back_and_ends_finite():
    model, history = fitted(*parts(torch.optim.SGD, lr=1e6), policy="bold")
    assert len(history.discarded) >= 1
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert history.discarded[0].verdict in ("diverged", "worse")


def test_parameter_groups_scale_together():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": model[2].parameters(), "lr": 0.02},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    trainer = TorchTrainer(model, optimizer, LOSS, TRAIN, VALIDATION)
    kept = trainer.snapshot()
    trainer.set(learning_rate=0.3)
    trainer.restore(kept)
    trainer.set(learning_rate=0.05)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.01])


def test_a_learning_rate_in_a_tensor_stays_there():
    model, _ = parts()
    rate = torch.tensor(1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    trainer = TorchTrainer(model, optimizer, LOSS, TRAIN, VALIDATION)
    kept = trainer.snapshot()
    trainer.set(learning_rate=0.01)
    assert optimizer.param_groups[0]["lr"] is rate
    assert trainer.hyperparameters["learning_rate"] == pytest.approx(0.01)
    trainer.restore(kept)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(1e-3)


def test_weights_of_the_loss_are_rolled_back_too():
    model = network()
    scale = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([*model.parameters(), scale], lr=0.1)

    def loss(outputs, y):
        return LOSS(outputs * scale, y)

    trainer = TorchTrainer(model, optimizer, loss, TRAIN, VALIDATION)
    kept = trainer.snapshot()
    trainer.train(3)
    assert float(scale.detach()) != 1.0
    trainer.restore(kept)
    assert float(scale.detach()) == 1.0


# Who owns the rate


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4),
    ],
)
def test_a_scheduler_owns_the_rate_of_a_constant_run(scheduler):
    reference, _ = plain(4, scheduler)
    model, optimizer = parts()
    fitted(model, optimizer, scheduler=scheduler(optimizer), policy="constant")
    assert same(model, reference)


def test_a_scheduler_by_the_step_is_stepped_by_the_step():
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=4 * 7)
    fitted(model, optimizer, scheduler=schedule, policy="constant")
    assert schedule.last_epoch == 28


@pytest.mark.parametrize("policy", ["default", "dqn", "bold", "grow"])
def test_two_owners_of_the_rate_are_refused(policy):
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    with pytest.raises(InvalidInputError, match=r"one owner, but .*LambdaLR.*policy='constant'"):
        fitted(model, optimizer, scheduler=schedule, policy=policy)


def test_a_plateau_scheduler_is_refused_with_the_way_out():
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(InvalidInputError, match=r"ReduceLROnPlateau.*policy='default'"):
        fitted(model, optimizer, scheduler=schedule)


def test_a_rolled_back_stretch_puts_the_scheduler_back():
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    trainer = TorchTrainer(model, optimizer, LOSS, TRAIN, VALIDATION, scheduler=schedule)
    kept = trainer.snapshot()
    trainer.train(3 * trainer.steps_per_epoch)
    assert trainer.hyperparameters["learning_rate"] == pytest.approx(1.25e-4)
    trainer.restore(kept)
    assert trainer.hyperparameters["learning_rate"] == pytest.approx(1e-3)
    trainer.train(trainer.steps_per_epoch)
    assert trainer.hyperparameters["learning_rate"] == pytest.approx(5e-4)


# Constraints


def test_the_model_handed_back_satisfies_its_constraints():
    free, history = fitted(*parts(lr=0.03), policy="bold", epochs=10)
    at_most = limit(0)(free).value * 0.7
    bound = limit(at_most)
    model, history = fitted(*parts(lr=0.03), policy="bold", epochs=10, constraints=[bound])
    assert bound(model).satisfied
    assert any(stretch.verdict == "violates" for stretch in history.discarded)
    assert max(history.history["norm"]) <= at_most
    assert sum(history.history["rolled_back"]) <= len(history.discarded)


def test_a_run_without_a_certified_state_says_so_and_carries_the_best_model():
    model, optimizer = parts()
    with pytest.raises(CannotCertify, match="norm = ") as caught:
        fitted(model, optimizer, constraints=[limit(0.0)])
    assert caught.value.best is model
    assert val_loss(model) < val_loss(network())


def test_a_constant_run_ends_at_the_first_violation():
    at_most = limit(0)(network()).value + 0.3
    model, history = fitted(policy="constant", constraints=[limit(at_most)], epochs=50)
    assert [stretch.verdict for stretch in history.discarded] == ["violates"]
    assert 0 < len(history.epoch) < 49
    assert limit(at_most)(model).satisfied


# Data


class Squares(Dataset):
    """Written in Python, so that workers load it."""

    def __len__(self):
        return 200

    def __getitem__(self, i):
        return torch.from_numpy(X[i]), int(Y[i])


def test_workers_stay_alive_and_change_nothing(monkeypatch):
    def run(workers):
        loader = DataLoader(
            Squares(),
            batch_size=32,
            shuffle=True,
            num_workers=workers,
            generator=torch.Generator().manual_seed(0),
            multiprocessing_context="fork" if workers else None,
        )
        model, optimizer = parts()
        trainer = TorchTrainer(model, optimizer, LOSS, loader, VALIDATION)
        trainer.train(5)
        trainer.set(batch_size=16)  # in mid-epoch, with batches fetched ahead
        kept = trainer.snapshot()
        trainer.train(7)
        trainer.restore(kept)
        trainer.train(20)
        return trainer

    alone, helped = run(0), run(2)
    assert same(alone.model, helped.model)
    workers = [w.pid for w in helped._feed._loader._iterator._workers]
    helped.train(2 * helped.steps_per_epoch)
    assert [w.pid for w in helped._feed._loader._iterator._workers] == workers


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([1]), "a dataset with a length"),
        (X, r"must be \(x, y\) or"),
        (DataLoader(Squares(), batch_sampler=[[0, 1], [2]]), "hand over the dataset"),
    ],
)
def test_data_without_epochs_is_refused(data, message):
    model, optimizer = parts()
    with pytest.raises(InvalidInputError, match=message):
        fit(model, optimizer, LOSS, data, VALIDATION, epochs=1)


def test_a_stream_of_unknown_length_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    model, optimizer = parts()
    for data in (Stream(), DataLoader(Stream())):
        with pytest.raises(InvalidInputError, match="must have `steps_per_epoch`"):
            fit(model, optimizer, LOSS, data, VALIDATION, epochs=1)


def test_validation_may_be_a_function():
    model, optimizer = parts()
    history = fit(
        model,
        optimizer,
        LOSS,
        TRAIN,
        lambda: {"val_loss": 1.0, "wer": 2.0},
        epochs=2,
        policy="constant",
        verbose=0,
    )
    assert history.history["wer"] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "ppo"}, r"`policy` must be one of \['bold'.*'ppo'"),
        ({"monitor": "val_nonsense"}, "`monitor` must be one of"),
        ({"epochs": 0}, "epochs > 0"),
        ({"batch_size": 0}, "batch size"),
        ({"metrics": ["nonsense"]}, "a metric must be"),
        ({"mode": "nonsense"}, "`mode` must be one of"),
    ],
)
def test_wrong_arguments_are_refused_before_training(wrong, message):
    model, optimizer = parts()
    with pytest.raises(InvalidInputError, match=message):
        fitted(model, optimizer, **wrong)
    assert same(model, network())


def test_it_can_be_driven_as_an_environment():
    bound = limit(limit(0)(network()).value + 0.5)
    model, optimizer = parts()
    trainer = TorchTrainer(model, optimizer, LOSS, TRAIN, VALIDATION, seed=0)
    env = TuningEnv(trainer, steps=150, constraints=[bound])
    rng = np.random.default_rng(0)
    for _ in range(2):
        _, info = env.reset()
        over = False
        while not over:
            move = rng.choice(np.flatnonzero(info["action_mask"]))
            *_, terminated, truncated, info = env.step(move)
            over = terminated or truncated
        assert env.hand_back() is model
        assert bound(model).satisfied
    assert {stretch.verdict for stretch in env.record} > {"committed"}


# Breaking off, and showing


def test_ctrl_c_leaves_the_best_state_and_a_usable_history():
    model, optimizer = parts(lr=0.01)
    batches = 0

    def step(batch):
        nonlocal batches
        batches += 1
        if batches == 40:
            raise KeyboardInterrupt  # as Ctrl-C; a real signal is ignored in background jobs
        optimizer.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    _, history = fitted(model, optimizer, train_step=step, policy="bold", epochs=50, metrics=())
    assert history.interrupted
    assert 0 < len(history.epoch) < 8
    assert val_loss(model) <= min(history.history["val_loss"]) + 1e-6


def test_the_display_tells_epochs_margins_and_what_was_rolled_back(capsys):
    bound = limit(limit(0)(network()).value + 1.0)
    model, optimizer = parts(lr=0.03)
    fitted(model, optimizer, policy="bold", epochs=10, constraints=[bound], verbose=1)
    out = capsys.readouterr().out
    assert "epoch   1  loss " in out
    assert "norm" in out
    assert "(kept by " in out
    assert "rolled back: at rate " in out
    assert "missed by" in out


def test_silence(capsys):
    fitted(verbose=0)
    assert capsys.readouterr().out == ""
