"""The price of deciding people unlike, in an environment: its mean is the gap, and it ascends."""

import warnings
from typing import Any

import numpy as np
import pytest

gym = pytest.importorskip("gymnasium")

from rlhf_tune.envs import AveragedPolicy, FairnessCost
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.rewards import Lagrangian


class People(gym.Env[Any, Any]):
    """A person a step, of group 0, 1 or 2; selecting one earns 1."""

    observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, shares: Any = (0.6, 0.3, 0.1)) -> None:
        self.shares = shares

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: Any) -> Any:
        return self._next(), float(action == 1), False, False, {"own": 7}

    def _next(self) -> Any:
        return np.eye(3, dtype=np.float32)[self.np_random.choice(3, p=self.shares)]


def group(seen: Any) -> int:
    return int(seen.argmax())


def play(env: Any, rates: Any, steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """Select each group at a rate; what was told of each step."""
    rng = np.random.default_rng(seed + 100)
    seen, _ = env.reset(seed=seed)
    told = []
    for _ in range(steps):
        action = int(rng.random() < rates[group(seen)])
        seen, reward, *_, info = env.step(action)
        told.append({**info, "paid": reward})
    return told


def test_the_mean_cost_is_the_gap_of_the_groups_farthest_apart() -> None:
    told = play(FairnessCost(People(), group, 2.0), (0.8, 0.5, 0.2), 10_000)
    late = told[2000:]
    costs = np.array([each["cost"] for each in late])
    assert costs.mean() == pytest.approx(0.6, abs=4 * costs.std() / np.sqrt(len(costs)))
    assert np.mean([each["gap"] for each in late]) == pytest.approx(0.6, abs=0.05)
    assert all(each["paid"] == each["reward"] - 2.0 * each["cost"] for each in told)
    assert late[0]["own"] == 7


def test_only_selected_people_of_the_two_groups_are_priced() -> None:
    env = FairnessCost(People(), group, 1.0)
    play(env, (0.8, 0.5, 0.2), 3000)
    share = {g: np.mean([each == g for each, _ in env._recent]) for g in (0, 2)}
    assert env._cost(0) == pytest.approx(1 / share[0])
    assert env._cost(1) == 0
    assert env._cost(2) == pytest.approx(-1 / share[2])


def test_groups_that_were_hardly_seen_are_not_compared() -> None:
    told = play(FairnessCost(People((0.999, 0.0005, 0.0005)), group, 1.0), (1.0, 0.0, 0.0), 500)
    assert {each["cost"] for each in told} == {0.0}
    assert {each["gap"] for each in told} == {0.0}


def test_old_decisions_are_forgotten() -> None:
    env = FairnessCost(People(), group, 1.0, window=1000, every=100)
    play(env, (1.0, 0.0, 0.0), 2000)
    assert env.gap == 1
    play(env, (0.5, 0.5, 0.5), 2000, seed=1)
    assert env.gap < 0.25
    assert len(env._recent) == 1000
    assert sum(n for n, _ in env._counts.values()) == 1000


def test_the_multiplier_ascends_by_the_gap_and_falls_to_nought_inside() -> None:
    multiplier = Lagrangian("gap", at_most=0.2, gain=0.5)
    env = FairnessCost(People(), group, multiplier, window=1000, every=100)
    play(env, (0.9, 0.5, 0.3), 3000)
    rises = np.diff(multiplier.history)
    assert len(rises) == 21  # once the window is full
    assert rises.mean() == pytest.approx(0.5 * (0.6 - 0.2), abs=0.05)
    assert env.multiplier == multiplier.history[-1]
    play(env, (0.5, 0.5, 0.5), 12_000, seed=1)  # it falls by some .05 in a hundred
    assert env.multiplier == 0


def test_an_agent_of_stable_baselines3_plays_it_and_its_policies_are_averaged() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    env, averaged = FairnessCost(People(), group, 1.0), AveragedPolicy(after=20, every=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and gymnasium, within it
        agent = sb3.A2C("MlpPolicy", env, n_steps=20, seed=0, device="cpu")
        agent.learn(60, callback=averaged)
    chances = averaged.probabilities(np.eye(3, dtype=np.float32))
    assert chances.shape == (3, 2)
    assert chances.sum(axis=1) == pytest.approx(1)
    assert averaged.act(np.eye(3, dtype=np.float32)[0]) in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"weight": -1.0}, "`weight >= 0` must hold, but got -1"),
        ({"weight": Lagrangian("gap")}, "needs the gap that is allowed"),
        ({"weight": 1.0, "window": 10, "every": 20}, "1 <= every <= window"),
    ],
)
def test_what_breaks_a_rule_is_refused(arguments: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        FairnessCost(People(), group, **arguments)


class Fixed:
    """A policy that selects with a chance."""

    def __init__(self, action: int) -> None:
        self.action = action

    def predict(self, _: Any) -> Any:
        return np.array(self.action), None


class Agent:
    num_timesteps = 0
    policy = Fixed(0)


def test_policies_along_the_way_are_mixed() -> None:
    agent, averaged = Agent(), AveragedPolicy(after=100, every=50)
    for step in range(1, 301):
        agent.num_timesteps, agent.policy = step, Fixed(int(step >= 200))
        assert averaged({"self": agent}, {})
    assert [policy.action for policy in averaged._policies] == [0, 0, 1, 1, 1]
    assert np.mean([averaged.act(None) for _ in range(2000)]) == pytest.approx(0.6, abs=0.05)
    with pytest.raises(InvalidInputError, match="at least after=9 steps"):
        AveragedPolicy(after=9).act(None)
