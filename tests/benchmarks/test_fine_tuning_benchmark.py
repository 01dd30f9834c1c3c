"""The benchmark of fine-tuning: source tasks, their simulation, plain methods."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import fine_tuning, pretrain_layers
from benchmarks.layers import agents, baselines, halving, shifts, tasks
from benchmarks.layers import simulation as sim
from benchmarks.layers.experience import experience, kept
from benchmarks.recorded.sources import SOURCES
from rlhf_tune.fine_tuning.driver import KNOWN
from rlhf_tune.fine_tuning.operations import GroupTrainer
from rlhf_tune.fine_tuning.process import FineTuning
from rlhf_tune_integrations.pytorch import TorchTrainer

TUNE = sim.OPERATIONS.index("tune")


def drawn(network: str, split: str = "train") -> tasks.Task:
    for seed in range(200):
        task = tasks.draw(split, seed)
        if task is not None and task.network == network:
            return task
    raise AssertionError(network)


def test_families_and_kinds_of_shift_are_divided() -> None:
    train, validation = (
        {SOURCES[n].family for n in tasks.names(s)} for s in ("train", "validation")
    )
    assert not train & validation
    assert not (train | validation) & {"digits", "mnist"}
    assert not set(tasks.TRAIN_KINDS) & set(tasks.VALIDATION_KINDS)
    assert not {*tasks.TRAIN_KINDS, *tasks.VALIDATION_KINDS} & set(shifts.SHIFTS)


def test_the_rows_of_a_task_are_apart_and_it_repeats_itself() -> None:
    one, other = (tasks.draw("train", 3) for _ in range(2))
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.train[0], other.train[0])
    assert len(one.held_out[1]) >= 150
    rows = np.concatenate([one.train[0], one.validation[0], one.held_out[0]])
    assert len(np.unique(rows, axis=0)) > 0.5 * len(rows)


def test_the_simulation_sees_what_the_product_sees() -> None:
    """Batches are drawn otherwise, so the whole target is one batch here."""
    task = drawn("mlp32x32")
    task = replace(task, train=(task.train[0][:16], task.train[1][:16]))
    chosen = [(2, "tune"), (0, "tune slowly"), (0, "return"), (3, "tune"), (1, "tune")]
    actions = [g * len(sim.OPERATIONS) + sim.OPERATIONS.index(o) for g, o in chosen]
    idle = [0] * (sim.DECISIONS - len(actions))
    trace = sim.simulate(task, 0, 1, 3e-3, lambda _, t: np.array([[*actions, *idle][t]]))
    model = agents.as_torch(task, sim.pretrained(task, 0)[1])
    trainer = TorchTrainer(
        model,
        torch.optim.Adam(model.parameters(), 3e-3),
        torch.nn.functional.cross_entropy,
        task.train,
        task.validation,
        batch_size=16,
        metrics=("accuracy",),
    )
    tuning = FineTuning(
        GroupTrainer(trainer, "auto", KNOWN), KNOWN, steps=sim.DECISIONS, stretch=sim.STRETCH
    )
    tuning.begin()
    assert tuning.names == sim.GROUPS
    np.testing.assert_allclose(tuning.seen(), trace.observation[0, 0], atol=1e-4)
    names = [operation.name for operation in KNOWN]
    for number, (group, operation) in enumerate(chosen, 1):
        tuning.step(group * len(names) + names.index(operation))
        np.testing.assert_allclose(tuning.seen(), trace.observation[number, 0], atol=2e-3)
        assert tuning.metric == pytest.approx(trace.metric[number, 0], abs=1e-6)


def test_what_is_handed_back_is_the_first_of_the_best() -> None:
    metric = np.array([[0.5], [0.7], [0.6], [0.7], [0.8]])
    accuracy = np.array([[0.1], [0.2], [0.3], [0.4], [0.5]])
    np.testing.assert_array_equal(kept(metric, accuracy)[:, 0], [0.1, 0.2, 0.2, 0.2, 0.5])


def test_rewards_are_gains_of_what_is_handed_back_less_costs() -> None:
    found = pretrain_layers.trace(3, "train", 4)
    assert found is not None
    known = experience({name: getattr(found, name)[None] for name in vars(found)})
    assert known.goes_on.sum() == 4 * (sim.DECISIONS - 1)
    worth = kept(found.metric, found.accuracy)
    total = known.reward.sum() / 4
    gained = float((worth[-1] - worth[0]).mean())
    assert gained - 0.002 * sim.DECISIONS <= total <= gained


def test_rounds_on_source_tasks_go_by_the_state_in_hand_and_keep_the_best_ever() -> None:
    # [3, M]: validation accuracy, minus the loss, accuracy held out.
    standing = np.array([[0.7, 0.9, 0.7], [-0.6, -0.9, -0.5], [0.3, 0.1, 0.2]])
    search = halving.Search([0, 1, 2], left=60.0, best=(0.5, -1.0, 0.0))
    assert search.lengths(standing, 2, 2, [1.0, 0.5, 0.1]) == {1: 30, 2: 30}  # a tie, by the loss
    assert search.alive == [1, 2]
    assert search.left == 60 - 30 * 0.5 - 30 * 0.1
    search.see(standing, [1, 2])
    assert search.best == (0.9, -0.9, 0.1)
    search.see(standing - 0.1, [1])
    assert search.best == (0.9, -0.9, 0.1)


def test_both_searches_play_a_source_task() -> None:
    task = drawn("mlp32x32")
    found = halving.searches(task, 0)
    assert len(found) == len(halving.GIVEN)
    assert all(0.0 <= value <= 1.0 for pair in found for value in pair)
    assert found == halving.searches(task, 0)


def test_plain_methods_freeze_what_they_say() -> None:
    source, targets = shifts.targets(shifts.rows(None), 7)
    model = shifts.pretrained("mlp", source, 7, epochs=1)
    plans = baselines.baselines(3, {"stem": [0], "blocks": [1], "head": [2]})
    norms = [0.1, 0.4, 0.2]
    assert plans["full"](0, norms) == [1, 1, 1]
    assert plans["stem"](0, norms) == [1, 0, 0]
    assert [plans["LP-FT"](stretch, norms)[0] for stretch in range(5)] == [0, 0, 1, 1, 1]
    assert [sum(plans["gradual unfreezing"](s, norms)) for s in range(5)] == [1, 1, 2, 2, 3]
    assert plans["layer decay"](0, norms) == [0.25, 0.5, 1]
    assert plans["Auto-RGN"](0, norms) == [0.25, 1, 0.5]
    before = copy.deepcopy(model.state_dict())
    outcome = baselines.play(model, targets[0], plans["head"], 7)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert 0.0 <= outcome.accuracy <= 1.0
    assert outcome.weighted < outcome.epochs == baselines.EPOCHS


def test_the_greedy_probe_tries_all_and_keeps_the_best() -> None:
    names = [operation.name for operation in KNOWN]
    agent = fine_tuning.Greedy(3, names)
    mask = np.ones(3 * len(names), np.bool_)
    gains = (0.0, 0.1, 0.0, 0.3, 0.0, 0.2, 0.0, 0.0)
    taken = [divmod(agent.act(np.array([0, 0, 0, g]), mask), len(names)) for g in gains]
    tune, back = names.index("tune"), names.index("return")
    assert taken[:6] == [(0, tune), (0, back), (1, tune), (1, back), (2, tune), (2, back)]
    assert taken[6:] == [(1, tune), (1, tune)]


def made(gain: float) -> fine_tuning.Found:
    """Outcomes in which "dqn" has so much more than "search"."""
    rng = np.random.default_rng(0)
    found = {}
    for target in shifts.SHIFTS:
        for seed in range(5):
            noise = {name: 0.01 * rng.normal() for name in ("none", "full", "search", "dqn")}
            noise["dqn"] += gain
            found[target, seed] = {
                name: baselines.Outcome(0.5 + off, 0.5, 20.0, 10.0, schedule="tune a, tune a, stop")
                for name, off in noise.items()
            }
    return found


def test_ahead_is_by_more_than_a_standard_error_of_pairs() -> None:
    assert "**ahead of** it" in fine_tuning.ahead(made(0.05), "dqn")
    assert "**not ahead of** it" in fine_tuning.ahead(made(-0.05), "dqn")


def test_the_tables_say_what_was_found() -> None:
    found = made(-0.1)
    columns = fine_tuning.accuracies(found).columns
    row = {c.header: list(c.cells)[-1] for c in columns}
    assert float(row["less than full, at most"]) == pytest.approx(0.1, abs=0.02)
    assert row["epochs"] == "20.0"
    lowest = list(fine_tuning.stability(found).columns[-2].cells)
    assert float(lowest[3]) < float(lowest[1])
    assert next(iter(fine_tuning.schedules(found, "dqn").columns[1].cells)) == "tune a x2, stop x1"


def test_policies_play_a_target() -> None:
    (target, seed), found = fine_tuning.compare((2, 7), "cnn", None, (), plain=False)
    assert (target, seed) == ("fade", 7)
    assert set(found) == {"none", "search", "dqn"}
    assert 0 < found["search"].weighted <= 60.0
    assert found["dqn"].epochs <= 60.0
    assert all(o.validation >= found["none"].validation for o in found.values())
