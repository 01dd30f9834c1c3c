"""The adapter of skorch keeps the contract of trainers, and says what it refuses."""

import pytest
from loop_owners import LOSS, TRAIN, VALIDATION, LoopContract, network, torch, val_loss

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.testing import Fitted, outside

pytest.importorskip("skorch")

from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit

from rlhf_tune_integrations.skorch import fit


def net(kind=NeuralNetClassifier, **arguments):
    settings = {
        "criterion": torch.nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 1e-3,
        "train_split": None,
        "max_epochs": 4,
        "batch_size": 16,
        "iterator_valid__batch_size": 64,
        "iterator_train__shuffle": True,
        "verbose": 0,
    }
    return kind(network, **{**settings, **arguments})


def fitted(of=None, **keywords):
    of = of or net()
    of.initialize() if not of.initialized_ else None
    torch.manual_seed(1)
    return of, fit(of, *TRAIN, validation_data=VALIDATION, **{"verbose": 0, **keywords})


def steps_of(of):
    return int(of.optimizer_.state_dict()["state"][0]["step"])


class Accumulating(NeuralNetClassifier):
    """As skorch's documentation does it."""

    def __init__(self, *args, each=3, **kwargs):
        super().__init__(*args, **kwargs)
        self.each, self.batches = each, 0

    def train_step(self, batch, **fit_params):
        step = self.train_step_single(batch, **fit_params)
        self.batches += 1
        if self.batches % self.each == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


class TestSkorch(LoopContract):
    def begin(self):
        fitted(epochs=1000)

    def fitted(self, steps, **driving):
        of, history = fitted(steps=steps, **driving)
        counted = sum(len(epoch["batches"]) for epoch in of.history)
        return Fitted(history, counted, val_loss(of.module_))

    def scheduled(self):
        return lambda: fitted(net(callbacks=[LRScheduler]))

    def accumulating(self):
        of = net(Accumulating)
        made = self.loops.enter_context(outside(lambda: fitted(of, epochs=1000)))
        return made, lambda: of.batches, 3


def test_it_learns_and_predicts():
    of, history = fitted(epochs=15)
    before = val_loss(network())
    assert val_loss(of.module_) < before - 0.1
    assert {"loss", "val_loss", "val_accuracy", "learning_rate"} <= history.history.keys()
    right = (of.predict(VALIDATION[0]) == VALIDATION[1]).mean()
    best = history.history["val_loss"].index(min(history.history["val_loss"]))
    assert right == pytest.approx(history.history["val_accuracy"][best])
    assert all(name != "rlhf_tune" for name, _ in of.callbacks_)


def test_a_call_that_is_refused_leaves_the_split_of_the_net():
    split = ValidSplit(5)
    of = net(train_split=split)
    with pytest.raises(InvalidInputError, match="exactly one of `epochs` and `steps`"):
        fit(of, *TRAIN, epochs=2, steps=3)
    assert of.train_split is split


def test_what_the_net_splits_off_judges_the_same_samples_throughout():
    """Also where its own split draws anew at each call."""
    split = ValidSplit(0.25, stratified=False)
    of = net(train_split=split)
    seen = []
    history = fit(of, *TRAIN, verbose=0, on_epoch=lambda _: seen.append(of.train_split(None)[1]))
    assert len(history.history["val_loss"]) == len(seen) == 4
    assert all(part is seen[0] for part in seen)
    assert len(seen[0]) == len(TRAIN[0]) // 4
    assert of.train_split is split
    judged = torch.stack([torch.as_tensor(seen[0][i][0]) for i in range(len(seen[0]))])
    targets = torch.tensor([int(seen[0][i][1]) for i in range(len(seen[0]))])
    with torch.no_grad():
        loss = float(LOSS(of.module_.eval()(judged), targets))
    assert loss <= min(history.history["val_loss"]) + 1e-5


def test_the_budget_is_that_of_the_net_unless_another_is_given():
    of, history = fitted(policy="constant")
    assert history.epoch == [0, 1, 2, 3]
    assert steps_of(of) == 28
    with pytest.raises(InvalidInputError, match="exactly one of `epochs` and `steps`"):
        fitted(epochs=2, steps=3)


def test_a_regressor_is_judged_by_its_criterion():
    of = net(NeuralNetRegressor, criterion=torch.nn.MSELoss)
    of.set_params(module=torch.nn.Linear, module__in_features=6, module__out_features=1)
    x, y = TRAIN[0], TRAIN[0][:, :1] * 2
    history = fit(of, x, y, validation_data=(x[:40], y[:40]), epochs=8, verbose=0)
    assert history.history["val_loss"][-1] < 2.0
    assert "val_accuracy" not in history.history


def test_a_warm_net_goes_on_from_its_weights_and_gently():
    of, _ = fitted(epochs=6, policy="constant")
    of.set_params(warm_start=True)
    before = val_loss(of.module_)
    _, history = fitted(of, epochs=6)
    assert history.range_test[0].learning_rate == pytest.approx(1e-3)
    assert val_loss(of.module_) <= before


def test_statistics_that_lag_are_made_anew_before_a_stretch_is_called_worse():
    made = {}

    def begin():
        made["net"], _ = fitted(epochs=1000)

    with outside(begin) as trainer:
        trainer.train(9)
        (layer,) = (m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm1d))
        layer.running_mean.fill_(50.0)
        weights = [p.clone() for p in trainer.model.parameters()]
        assert trainer.refresh()
        with torch.no_grad():
            inputs = torch.cat([torch.as_tensor(batch[0]) for batch in trainer.batches])
            mean = trainer.model[0](inputs).mean(0)
        torch.testing.assert_close(layer.running_mean, mean, atol=0.05, rtol=0.0)
        assert all(map(torch.equal, weights, trainer.model.parameters()))


def test_a_run_that_is_over_is_handed_back_without_a_step(tmp_path):
    first, history = fitted(checkpoint=tmp_path)
    again, same = fitted(checkpoint=tmp_path)
    assert same.history == history.history
    assert not any(epoch["batches"] for epoch in again.history)
    assert val_loss(again.module_) == val_loss(first.module_)


def test_early_stopping_of_the_users_ends_the_run():
    scoring = EpochScoring("accuracy", name="train_acc", on_train=True)
    stopping = EarlyStopping("train_acc", patience=1, threshold=1e9, lower_is_better=False)
    of, history = fitted(net(callbacks=[scoring, stopping], max_epochs=30), policy="constant")
    assert history.interrupted
    assert len(of.history) < 30


def test_what_the_loop_raises_comes_out():
    class Failing(torch.nn.CrossEntropyLoss):
        calls = 0

        def forward(self, *args):
            Failing.calls += 1
            if Failing.calls > 30:
                raise OSError("disk full")
            return super().forward(*args)

    with pytest.raises(OSError, match="disk full") as caught:
        fitted(net(criterion=Failing), policy="constant")
    assert caught.value.history.epoch
    assert LOSS is not None


def test_what_cannot_be_driven_is_refused():
    with pytest.raises(InvalidInputError, match="but there is both"):
        fitted(net(train_split=ValidSplit(5)))
    with pytest.raises(InvalidInputError, match="but there is neither"):
        fit(net(), *TRAIN)
    for no_net in (NeuralNetClassifier, make_pipeline(net())):
        with pytest.raises(InvalidInputError, match="a skorch net must be given"):
            fit(no_net, *TRAIN)
    two = net()
    two.initialize()
    two._modules = ["module", "other"]
    two.warm_start = True
    with pytest.raises(InvalidInputError, match="one module and one optimizer"):
        fitted(two)
