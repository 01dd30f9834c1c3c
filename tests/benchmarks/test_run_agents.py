"""The comparison of agents in training runs."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from benchmarks.runs import agents


def test_an_episode_begins_at_a_drawn_rate_or_at_the_one_asked_for():
    env = agents.RandomStart(agents.scripted())
    rates = {env.reset(seed=seed)[1]["learning_rate"] for seed in range(5)}
    assert len(rates) == 5
    assert all(agents.RATES[0] <= rate <= agents.RATES[1] for rate in rates)
    assert env.reset(options={"learning_rate": 0.3})[1]["learning_rate"] == 0.3


@pytest.mark.parametrize("name", ["always stay", "random moves", "Q-learning", "DQN"])
def test_ours_never_make_a_forbidden_move(name):
    regret, forbidden, learning = agents.play("scripted", name, 40, seed=0)
    assert (forbidden, learning) == (0, 0)
    assert np.isfinite(regret)


@pytest.mark.parametrize("name", ["sb3 DQN, no mask", "sb3-contrib MaskablePPO"])
def test_theirs_play_the_same_runs(name):
    pytest.importorskip("sb3_contrib")
    regret, forbidden, _ = agents.play("scripted", name, 120, seed=0)
    assert np.isfinite(regret)
    assert forbidden == 0 or "no mask" in name


def test_our_agents_learn_what_staying_cannot():
    stay, table, network = (
        agents.play("scripted", name, 400, seed=0)[0]
        for name in ("always stay", "Q-learning", "DQN")
    )
    assert max(table, network) < stay
