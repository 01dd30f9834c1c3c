"""A training run whose reward is what people prefer: agents learn what the metric cannot tell."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from rlhf_tune import rewards
from rlhf_tune.envs import TuningEnv
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback import RewardModel
from rlhf_tune.testing import ScriptedTrainer


class Known:
    """A utility that is known exactly, but for a deviation that grows with the moves."""

    names = ("val_loss", "moves")

    def predict(self, outcomes: Any) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(outcomes)
        return -x[:, 0], 0.1 * x[:, 1]


def tuning(reward: rewards.Reward) -> TuningEnv:
    return TuningEnv(ScriptedTrainer(samples=320), steps=20, stretch=5, reward=reward)


def play(env: TuningEnv, actions: list[int]) -> tuple[float, dict[str, Any], dict[str, Any]]:
    _, first = env.reset(seed=0)
    total, over, info = 0.0, False, first
    while not over and actions:
        _, reward, ended, cut, info = env.step(np.int64(actions.pop(0)))
        total, over = total + reward, ended or cut
    return total, first["outcomes"], info["outcomes"]


@pytest.mark.parametrize("pessimism", [0.0, 1.0, 3.0])
def test_rewards_sum_to_the_gain_of_the_pessimistic_utility(pessimism: float) -> None:
    env = tuning(rewards.preference(Known(), pessimism))
    total, first, last = play(env, [0, 1, 0, 2])
    assert first["moves"] == 0
    assert last["moves"] == 2
    gain = first["val_loss"] - last["val_loss"]
    assert gain > 0
    assert total == pytest.approx(gain - pessimism * 0.1 * 2)


def test_a_function_is_a_reference() -> None:
    env = tuning(rewards.preference(lambda outcomes: -3 * outcomes["val_loss"]))
    total, first, last = play(env, [0, 1, 0, 2])
    assert total == pytest.approx(3 * (first["val_loss"] - last["val_loss"]))


def test_outcomes_are_those_of_the_best_state() -> None:
    env = tuning(rewards.gain)
    _, first = env.reset(seed=0)
    assert set(first["outcomes"]) == {"val_loss", "moves"}
    _, _, _, _, info = env.step(np.int64(0))
    assert info["outcomes"]["val_loss"] < first["outcomes"]["val_loss"]


def test_a_fitted_model_is_a_reward() -> None:
    names = ["val_loss", "moves"]
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 200, 2)) * [1.0, 4.0]
    first = 20 * (b[:, 0] - a[:, 0]) + (b[:, 1] - a[:, 1]) > 0
    model = RewardModel(names=names).fit(a, b, answers=first.astype(float))
    stay, _, _ = play(tuning(rewards.preference(model)), [0] * 4)
    move, _, _ = play(tuning(rewards.preference(model)), [0, 1, 2, 1])
    assert stay > 0
    assert stay != move


def test_mistakes_are_told() -> None:
    with pytest.raises(InvalidInputError, match="pessimism >= 0"):
        rewards.preference(Known(), -1.0)
    with pytest.raises(InvalidInputError, match="outcomes have names"):
        rewards.preference(RewardModel())
    env = tuning(rewards.preference(Known(), names=["val_loss", "val_accuracy"]))
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"not \['val_accuracy'\]"):
        env.step(np.int64(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A2C", "PPO", "DQN"])
def test_agents_learn_to_please(name: str) -> None:
    """People dislike moves; agents that see the metric alone make them, those that see people's
    utility do not. Judged by the true utility, which neither sees."""
    from benchmarks.runs.preferring import true_utility_of

    learned, metric = (true_utility_of(name, learned=which) for which in (True, False))
    random = true_utility_of("random", learned=True)
    print(
        f"{name}: {learned:.2f} by preference, {metric:.2f} by the metric, {random:.2f} at random"
    )
    assert learned > random
    if name != "PPO":  # whose runs differ more by their seed
        assert learned > metric
