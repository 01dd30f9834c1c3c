"""Plans, the search, the network's inputs, agents of two levels, and agents of a library."""

import itertools
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from tuned_models import torch_trainer

from rlhf_tune.agents.network import Network, save
from rlhf_tune.agents.q_learning import QLearning
from rlhf_tune.envs import FineTuningEnv
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning import Learned, TwoLevel
from rlhf_tune.fine_tuning.driver import KNOWN
from rlhf_tune.fine_tuning.observation import GLOBAL, OF_GROUP
from rlhf_tune.fine_tuning.operations import RATED
from rlhf_tune.fine_tuning.policies import (
    INPUTS,
    OPERATION_FEATURES,
    load,
    pairs,
    parts,
    plans,
    play,
    rounds,
    search,
    shipped,
)

NAMES = [operation.name for operation in KNOWN]
RATED_NAMES = [operation.name for operation in RATED]


def linear(weights: dict[int, float]) -> Network:
    column = np.zeros((INPUTS, 1))
    for at, weight in weights.items():
        column[at] = weight
    return Network([(column, np.zeros(1))])


def test_plans_are_each_group_and_the_head_before_all() -> None:
    found = plans(["stem", "head", "all"], 4)
    assert set(found) == {"stem", "head", "all", "head, then all"}
    assert found["head, then all"] == ["head"] + ["all"] * 3
    assert set(plans(["all"], 3)) == {"all"}


@pytest.mark.parametrize(
    ("candidates", "steps", "found"),
    [
        (15, 240, [15, 5, 2, 1]),
        (15, 22, [15, 5, 2]),
        (15, 19, [15]),
        (5, 5, [5]),
        (2, 7, [2, 1]),
        (1, 9, [1]),
    ],
)
def test_a_third_goes_on_while_there_is_a_step_for_each(
    candidates: int, steps: int, found: list[int]
) -> None:
    assert rounds(candidates, steps) == found


def test_candidates_of_a_round_have_equal_parts_of_what_their_steps_cost() -> None:
    assert parts(40, [1.0, 0.5, 0.25, 0.25]) == [10, 20, 40, 40]
    assert parts(30, [1.0, 0.1, 0.01]) == [10, 30, 30]  # none goes further than all weights would
    assert parts(2, [1.0] * 5) == [1] * 5  # at least a step
    assert parts(0.3 * 3, [0.1] * 3) == [1] * 3
    assert parts(3 * 0.7, [0.1] * 3) == [2] * 3  # 7 - 1e-15 by the quotient, but the whole is 2.1


def searched(steps: int = 15, **options: Any) -> FineTuningEnv:
    return FineTuningEnv(torch_trainer(), steps=steps, stretch=4, operations=RATED, **options)


def test_the_best_third_goes_on_from_where_it_was() -> None:
    env, heard = searched(), list[Any]()
    episodes = list(search(env.tuning, heard.append))
    assert len(episodes) == 15
    cost = sum(each.epochs * each.share for each in heard) * 5  # 5 steps an epoch
    assert 0.8 * 60 < cost <= 60
    winner = episodes[-1]
    assert len(winner.record) == max(len(each.record) for each in episodes)
    for before, after in itertools.pairwise(winner.record):
        assert after.metric - after.gain == pytest.approx(before.metric)
    # What an unbroken run of the same stretches comes to, in a trainer of its own.
    alone = searched().tuning
    alone.begin()
    alone.steps = len(winner.record)
    for each in winner.record:
        group, operation = alone.names.index(each.group), RATED_NAMES.index(each.operation)
        assert alone.step(group * len(RATED) + operation, round(each.epochs * 5)) == each


def test_the_best_of_a_round_goes_on() -> None:
    env = FineTuningEnv(torch_trainer(), 1, steps=15, stretch=4, operations=RATED)
    *out, winner = list(search(env.tuning))
    assert [len(each.record) for each in out] == [3, 3]  # 10 steps in stretches of 4
    assert len(winner.record) == 3 + 8  # and 30
    assert winner.record[2].metric >= max(each.record[2].metric for each in out)


def test_doing_nothing_is_among_what_is_compared() -> None:
    start = torch_trainer().evaluate()["val_accuracy"]
    ruinous = FineTuningEnv(torch_trainer(rate=10.0), steps=15, stretch=4, operations=RATED)
    episodes = list(search(ruinous.tuning))
    assert min(each.metric for episode in episodes for each in episode.record) < start
    assert min(episode.metric for episode in episodes) >= start


def test_what_breaks_in_hands_over_every_episode_once() -> None:
    heard = []

    def interrupt(tuned: Any) -> None:
        heard.append(tuned)
        if len(heard) == 40:  # in the second round
            raise KeyboardInterrupt

    episodes = list[Any]()
    with pytest.raises(KeyboardInterrupt):
        deque(map(episodes.append, search(searched().tuning, interrupt)))
    assert len({episode.plan for episode in episodes}) == len(episodes) == 15
    assert sum(len(episode.record) for episode in episodes) == 40


def test_a_stretch_that_is_taken_back_ends_its_candidate() -> None:
    env = FineTuningEnv(torch_trainer(rate=1e30), steps=15, stretch=4, operations=RATED)
    episodes = list(search(env.tuning))
    assert "diverged" in {each.record[-1].verdict for each in episodes}
    assert {each.verdict for e in episodes for each in e.record[:-1]} <= {"committed"}
    assert len(episodes) == 15


def test_what_the_network_sees_of_a_group() -> None:
    groups = 3
    size = len(GLOBAL) + groups * len(OF_GROUP)
    seen = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    x = pairs(seen, groups, "tune slowly")
    assert x.shape == (2, groups, INPUTS)
    first, own = len(GLOBAL), len(OF_GROUP)
    np.testing.assert_array_equal(x[1, 2, :first], seen[1, :first])
    np.testing.assert_array_equal(x[1, 2, first : first + own], seen[1, first + 2 * own :])
    every = seen[1, first:].reshape(groups, own)
    np.testing.assert_allclose(x[1, 2, first + own : first + 2 * own], every.mean(axis=0))
    np.testing.assert_allclose(x[1, 2, first + 2 * own : first + 3 * own], every.max(axis=0))
    assert list(x[0, 0, -3:]) == [0.0, 1.0, 0.0]


def test_the_order_of_the_groups_does_not_matter_to_the_network() -> None:
    rng = np.random.default_rng(0)
    network = Network([(rng.normal(size=(INPUTS, 8)), np.zeros(8)), (np.ones((8, 1)), np.zeros(1))])
    agent = Learned(network, NAMES)
    overall, own = rng.normal(size=len(GLOBAL)), rng.normal(size=(4, len(OF_GROUP)))
    mask = np.ones(4 * len(NAMES), np.bool_)
    order = np.array([2, 0, 3, 1])
    one = agent.values(np.concatenate([overall, own.ravel()]), mask).reshape(4, -1)
    other = agent.values(np.concatenate([overall, own[order].ravel()]), mask).reshape(4, -1)
    np.testing.assert_allclose(one[order], other)


def test_it_goes_on_where_that_is_worth_more_than_the_margin() -> None:
    at = len(GLOBAL) + OF_GROUP.index("gradient")
    network, groups = linear({at: 0.01}), 2
    seen = np.zeros(len(GLOBAL) + groups * len(OF_GROUP), np.float32)
    seen[at + len(OF_GROUP)] = 1.0  # the second group's
    mask = np.ones(groups * len(NAMES), np.bool_)
    second = len(NAMES) + NAMES.index("tune")
    assert Learned(network, NAMES).act(seen, mask) == second
    mask[second] = False
    assert Learned(network, NAMES).act(seen, mask) == len(NAMES) + NAMES.index("tune slowly")
    assert Learned(network, NAMES, margin=0.02).act(seen, mask) == NAMES.index("stop")


def test_the_file_of_a_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save(linear({0: 1.0}), path, {}, margin=np.array([0.5]))
    assert load(path, NAMES)._margin == 0.5
    save(Network([(np.zeros((3, 1)), np.zeros(1))]), path, {}, margin=np.array([0.5]))
    with pytest.raises(InvalidInputError, match=f"lacks .*a layer of {INPUTS} inputs"):
        load(path, NAMES)
    assert shipped(tuple(NAMES)).act is not None
    assert len(OPERATION_FEATURES) == 3


def test_two_levels_combine() -> None:
    class Fixed:
        def __init__(self, action: int) -> None:
            self.action, self.asked = action, []

        def act(self, observation: Any, mask: Any) -> int:
            self.asked.append(mask)
            return self.action

    operations = len(NAMES)
    chooser, operators = Fixed(1), {0: Fixed(0), 1: Fixed(2)}
    mask = np.ones(3 * operations, np.bool_)
    mask[:operations] = False
    assert TwoLevel(chooser, operators, operations).act(np.zeros(3), mask) == operations + 2
    np.testing.assert_array_equal(chooser.asked[0], [False, True, True])
    assert operators[1].asked[0].shape == (operations,)


def test_tabular_agents_of_two_levels_play_an_episode() -> None:
    class State:
        """What is left of the budget is all that a table needs here."""

        def __init__(self, actions: int, seed: int) -> None:
            self.agent = QLearning(actions, seed=seed)

        def act(self, observation: Any, mask: Any) -> int:
            return self.agent.act(round(float(observation[1]), 2), mask, epsilon=0.5)

    env = FineTuningEnv(torch_trainer(), steps=4, stretch=1)
    groups, operations = len(env.groups), len(env.tuning.operations)
    chooser = State(groups, 0)
    agent = TwoLevel(chooser, {g: State(operations, g) for g in range(groups)}, operations)
    assert 1 <= len(play(env.tuning, agent).record) <= 4


@pytest.mark.parametrize("kind", ["A2C", "PPO", "MaskablePPO"])
def test_actor_critics_of_a_library_learn_in_the_environment(kind: str) -> None:
    library = pytest.importorskip("sb3_contrib" if kind == "MaskablePPO" else "stable_baselines3")
    env = FineTuningEnv(torch_trainer(), steps=4, stretch=1)
    options = {"n_steps": 8} | ({} if kind == "A2C" else {"batch_size": 8, "n_epochs": 1})
    agent = getattr(library, kind)("MlpPolicy", env, seed=0, device="cpu", **options)
    agent.learn(8)
    observation, info = env.reset(seed=1)
    masks = {"action_masks": info["action_mask"]} if kind == "MaskablePPO" else {}
    action, _ = agent.predict(observation, deterministic=True, **masks)
    _, reward, _, _, _ = env.step(action)
    assert np.isfinite(reward)
