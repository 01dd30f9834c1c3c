"""TabularEnv keeps Gymnasium's contract and its own."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from rlhf_tune.envs.tabular import TabularEnv
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.testing import EnvContract

LINE = np.array([[0], [1], [-1], [2], [-2]])
BOWL = (np.arange(24)[:, None] - 15) ** 2 / 100 + np.abs(np.arange(5) - 1) / 10  # best (15, 1)


def walk(env: TabularEnv, seed: int) -> list[tuple]:
    """A random allowed episode: (observation, reward, terminated, truncated, info) of each step."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    trace = [(observation, 0.0, False, False, info)]
    while not (trace[-1][2] or trace[-1][3]):
        trace.append(env.step(rng.choice(np.flatnonzero(trace[-1][4]["action_mask"]))))
    return trace


def act(env: TabularEnv, offset: list[int]):
    """Take the move with this offset."""
    return env.step(np.flatnonzero((env._offsets == offset).all(axis=1))[0])


class TestContract(EnvContract):
    budget = 30

    def make(self):
        noisy = BOWL + np.random.default_rng(1).normal(size=(3, 24, 5)) / 10
        return TabularEnv(noisy, replicates=True, constraint=noisy - 2, budget=30)

    def blind(self):
        # No two actions may leave the lattice.
        steps = np.array([(i, j) for i in range(-5, 6) for j in range(-5, 6) if (i, j) != (0, 0)])
        offsets = np.vstack([[0, 0], steps])
        noisy = np.random.default_rng(0).normal(size=(3, 23, 23))
        return TabularEnv(noisy, replicates=True, constraint=noisy - 1, offsets=offsets)

    def best(self, env):
        return env.incumbent


class TestContractOfAnExhaustedLattice(EnvContract):
    budget = 40

    def make(self):
        return TabularEnv([5.0, 4, 6, 1, 9], start=[1], offsets=LINE, budget=40)

    def blind(self):
        return None

    def best(self, env):
        return env.incumbent


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("seed", range(5))
def test_rewards_sum_to_the_improvement_and_are_not_negative(direction, seed):
    env = TabularEnv(BOWL, direction=direction, start=(3, 2), budget=30)
    trace = walk(env, seed)
    rewards = [step[1] for step in trace]
    sign = 1 if direction == "maximize" else -1
    values = [step[4]["value"] for step in trace]
    best = max(values) if direction == "maximize" else min(values)
    assert min(rewards) >= 0
    assert sum(rewards) > 0
    assert sum(rewards) == pytest.approx(sign * (best - BOWL[3, 2]))
    assert trace[-1][0][0] == pytest.approx(best, rel=1e-6)
    assert len(trace) == 31
    assert trace[-1][2:4] == (False, True)  # truncated, not terminated: values bootstrap


def test_moves_go_around_the_incumbent_not_the_last_cell():
    env = TabularEnv([5.0, 4, 6, 1, 9], start=[1], offsets=LINE)
    env.reset(seed=0)
    *_, info = act(env, [1])  # cell 2 is worse
    assert (info["cell"], info["value"]) == ((2,), 6.0)
    observation, reward, *_, info = act(env, [2])  # from cell 1, not from 2
    assert info["cell"] == (3,)
    assert reward == 3.0
    np.testing.assert_allclose(observation, [1.0, 0.75, 0.9, 1.0])


def test_the_mask_is_the_lattice_less_what_was_tried():
    env = TabularEnv([5.0, 4, 6, 1, 9], start=[1], offsets=LINE)
    _, info = env.reset(seed=0)
    np.testing.assert_array_equal(info["action_mask"], [1, 1, 1, 1, 0])
    *_, info = act(env, [1])
    np.testing.assert_array_equal(info["action_mask"], [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(info["action_mask"], env.action_masks())
    with pytest.raises(InvalidInputError, match=r"action_masks.*\[1\] from \(1,\)"):
        act(env, [1])
    with pytest.raises(InvalidInputError, match="unknown"):
        env.step(99)
    *_, info = act(env, [0])  # measuring again is always possible
    assert info["cell"] == (1,)


def test_an_exhausted_lattice_terminates():
    env = TabularEnv([3.0, 2, 1], start=[0], offsets=LINE, budget=9)
    env.reset(seed=0)
    assert act(env, [1])[2:4] == (False, False)
    assert act(env, [1])[2:4] == (True, False)
    with pytest.raises(InvalidInputError, match="every cell is tried"):
        act(env, [0])


def test_an_episode_ends_with_its_budget():
    env = TabularEnv([3.0, 2, 1], budget=1)
    env.reset(seed=0)
    assert env.step(0)[3]
    with pytest.raises(InvalidInputError, match="reset"):
        env.step(0)


def test_the_same_seed_gives_the_same_episode():
    noisy = BOWL + np.random.default_rng(1).normal(size=(4, 24, 5))
    first, second, other = (walk(TabularEnv(noisy, replicates=True), s) for s in (7, 7, 8))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
        assert a[4]["cell"] == b[4]["cell"]
    assert [s[4]["cell"] for s in first] != [s[4]["cell"] for s in other]


def test_measuring_again_draws_another_replicate_and_may_gain():
    noisy = np.array([[3.0, 9.0], [2.0, 9.0], [1.0, 9.0]])
    env = TabularEnv(noisy, replicates=True, start=[0], budget=50)
    _, info = env.reset(seed=0)
    seen = {info["value"]}
    total = 0.0
    for _ in range(50):
        _, reward, *_, step_info = env.step(0)
        seen.add(step_info["value"])
        total += reward
    assert seen == {1.0, 2.0, 3.0}
    assert total == info["value"] - 1.0


def test_a_violating_cell_never_replaces_an_allowed_one():
    cost = [-1.0, -1, 0.5, -1, -1]
    env = TabularEnv([5.0, 4, 0, 1, 9], start=[1], offsets=LINE, constraint=cost)
    env.reset(seed=0)
    observation, reward, *_, info = act(env, [1])
    assert info["violation"]
    assert info["cost"] == 0.5
    assert reward == 0
    assert observation[0] == 4.0
    *_, info = act(env, [2])
    assert not info["violation"]


def test_from_a_violating_start_the_least_violation_leads_to_the_allowed():
    cost = [3.0, 2, 1, 0, -1]
    env = TabularEnv([1.0, 2, 3, 4, 3.5], start=[0], offsets=LINE, constraint=cost)
    observation, info = env.reset(seed=0)
    assert info["violation"]
    assert observation[-1] == 0
    rewards = []
    for _ in range(4):
        observation, reward, *_ = act(env, [1])
        rewards.append(reward)
    assert rewards == [0, 0, 0, 0.5]  # the first allowed cell (4.0) sets the level
    np.testing.assert_allclose(observation, [3.5, 1, 0.8, 1])


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"values": [1.0, np.inf]}, "finite"),
        ({"values": []}, "non-empty"),
        ({"values": 3.0}, "non-empty"),
        ({"values": [1.0, 2], "start": [2]}, "start must be a cell"),
        ({"values": [1.0, 2], "start": [0, 0]}, "start must be a cell"),
        ({"values": [1.0, 2], "budget": 0}, "budget >= 1"),
        ({"values": [1.0, 2], "constraint": [0.0]}, "shape of values"),
        ({"values": [1.0, 2], "constraint": [0.0, np.nan]}, "no NaN"),
        ({"values": [1.0, 2], "offsets": np.array([[1], [0]])}, "zeros in row 0"),
        ({"values": [1.0, 2], "offsets": np.array([[0, 0]])}, "offsets must be"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, rule):
    with pytest.raises(InvalidInputError, match=rule):
        TabularEnv(**arguments)
