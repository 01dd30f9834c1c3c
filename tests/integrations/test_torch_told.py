"""torch `fit` tells each epoch to functions, which may end the run; budgets in steps; modes."""

import re
from pathlib import Path

import numpy as np
import pytest
from torch_runs import LOSS, TRAIN, VALIDATION, fitted, network, parts, same, val_loss

from rlhf_tune.errors import InvalidInputError

torch = pytest.importorskip("torch")

from rlhf_tune_integrations.pytorch import TorchTrainer, fit


@pytest.mark.parametrize("policy", ["default", "constant"])
def test_functions_are_told_of_each_epoch_once_it_is_committed(policy):
    heard, again = [], []
    _, history = fitted(policy=policy, epochs=4, on_epoch=[heard.append, again.append])
    assert [epoch.number for epoch in heard] == history.epoch
    assert heard == again
    for key, column in history.history.items():
        assert [epoch.logs[key] for epoch in heard] == column


def test_what_is_rolled_back_is_not_told():
    heard = []
    model, optimizer = parts(torch.optim.SGD, lr=0.5)
    _, history = fitted(model, optimizer, policy="bold", epochs=30, on_epoch=heard.append)
    assert history.discarded
    assert len(heard) == len(history.epoch)


def test_true_ends_the_run_and_nothing_else_does():
    _, history = fitted(policy="constant", epochs=9, on_epoch=lambda epoch: epoch.number == 2)
    assert history.epoch == [0, 1, 2]
    _, history = fitted(policy="constant", epochs=3, on_epoch=lambda epoch: np.float64(1.0))
    assert history.epoch == [0, 1, 2]
    _, history = fitted(epochs=9, on_epoch=[lambda epoch: True, lambda epoch: None])
    assert history.epoch == [0]
    assert not history.interrupted


@pytest.mark.parametrize("wrong", ["log", [print, None], 3])
def test_what_cannot_be_told_is_refused(wrong):
    model, optimizer = parts()
    with pytest.raises(InvalidInputError, match=r"`on_epoch` must be a function"):
        fitted(model, optimizer, on_epoch=wrong)
    assert same(model, network())


def test_a_trial_is_pruned_in_the_middle_and_keeps_its_best_state():
    optuna = pytest.importorskip("optuna")
    caught = []

    def objective(trial):
        model, optimizer = parts()

        def report(epoch):
            trial.report(epoch.logs["val_loss"], epoch.number)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            _, history = fitted(model, optimizer, policy="constant", epochs=6, on_epoch=report)
        except optuna.TrialPruned as exc:
            caught.append((model, exc))
            raise
        return min(history.history["val_loss"])

    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1, n_warmup_steps=3))
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    assert all(len(trial.intermediate_values) == 4 for trial in study.trials)
    for model, exc in caught:
        assert exc.history.epoch == [0, 1, 2, 3]
        assert val_loss(model) == pytest.approx(min(exc.history.history["val_loss"]))


def test_the_example_of_the_papers_prunes():
    optuna = pytest.importorskip("optuna")
    text = (Path(__file__).parents[2] / "docs/training-runs.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import optuna\n.*?)```", text, re.S)
    names = {"torch": torch, "fit": fit, "make_model": network, "loss": LOSS}
    names |= {"train": TRAIN, "validation": VALIDATION}
    exec(code, names)
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2),
    )
    study.optimize(names["objective"], n_trials=6)
    states = [trial.state.name for trial in study.trials]
    assert set(states) == {"COMPLETE", "PRUNED"}
    pruned = study.trials[states.index("PRUNED")]
    assert 3 <= len(pruned.intermediate_values) < 20


# Budgets in steps


@pytest.mark.parametrize(("steps", "entries"), [(3, 1), (7, 1), (10, 2), (21, 3)])
def test_a_budget_in_steps_is_trained_to_the_step(steps, entries):
    model, optimizer = parts()
    taken = 0

    def count(*_):
        nonlocal taken
        taken += 1

    optimizer.register_step_post_hook(count)
    _, history = fitted(model, optimizer, policy="constant", epochs=None, steps=steps)
    assert taken == steps
    assert len(history.epoch) == entries
    twin, _ = fitted(*parts(), policy="constant", epochs=steps / 7)
    assert same(model, twin)


@pytest.mark.parametrize("policy", ["default", "bold", "grow"])
def test_a_budget_in_steps_is_that_of_as_many_epochs(policy):
    by_steps, _ = fitted(policy=policy, epochs=None, steps=28)
    by_epochs, _ = fitted(policy=policy, epochs=4)
    assert same(by_steps, by_epochs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": None}, "exactly one of `epochs` and `steps`"),
        ({"steps": 5}, "exactly one of `epochs` and `steps`"),
        ({"epochs": None, "steps": 0}, "whole number >= 1, but got 0"),
        ({"epochs": None, "steps": float("inf")}, "whole number >= 1, but got inf"),
        ({"epochs": None, "steps": 2.5}, r"whole number >= 1, but got 2\.5"),
    ],
)
def test_a_budget_is_said_once_and_as_a_number_of_steps(wrong, said):
    model, optimizer = parts()
    with pytest.raises(InvalidInputError, match=said):
        fitted(model, optimizer, **wrong)
    assert same(model, network())


# Modes


def test_modes_are_kept_as_handed_over_also_below_a_root_in_evaluation_mode():
    seen = []

    class Seen(torch.nn.Linear):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append((self.training, frozen.training))
            return super().forward(x)

    frozen = torch.nn.BatchNorm1d(6)
    model = torch.nn.Sequential(frozen, Seen(6, 2))
    model.eval()
    model[1].train()
    fitted(model, torch.optim.SGD(model.parameters(), 0.1), epochs=2)
    assert set(seen) == {(True, False)}
    assert torch.equal(frozen.running_mean, torch.zeros(6))
    assert (model.training, frozen.training, model[1].training) == (False, False, True)


def test_a_model_in_evaluation_mode_as_a_whole_is_trained_in_training_mode():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2)).eval()
    trainer = TorchTrainer(model, torch.optim.SGD(model.parameters(), 0.1), LOSS, TRAIN, TRAIN)
    assert not model.training
    trainer.train(2)
    assert model[0].training
    assert not torch.equal(model[0].running_mean, torch.zeros(6))
