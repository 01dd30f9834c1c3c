"""Learning the Q-network of fine-tuning."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rlhf_tune.agents.network import Network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.observation import GLOBAL, OF_GROUP
from rlhf_tune.fine_tuning.policies import INPUTS, Learned
from rlhf_tune.pretraining.fine_tuning import Experience, learn, mean_of

GROUPS, NAMES = 3, ("skip", "tune", "tune slowly", "stop", "return")
SIZE = len(GLOBAL) + GROUPS * len(OF_GROUP)


def made(count: int = 3000, worth: float = 0.1) -> Experience:
    """Two decisions an episode; training the group with the largest gradient is worth something."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(count, SIZE)).astype(np.float32)
    observation[:, 1] = rng.integers(1, 3, size=count)  # decisions left
    gradients = observation[:, len(GLOBAL) :: len(OF_GROUP)]
    group = rng.integers(GROUPS, size=count)
    operation = rng.integers(3, size=count)
    right = (gradients.argmax(axis=1) == group) & (operation == 0)
    after = rng.normal(size=(count, SIZE)).astype(np.float32)
    after[:, 1] = 1
    return Experience(
        observation, group, operation, right * worth - 0.01, after, observation[:, 1] > 1, GROUPS
    )


def test_it_learns_which_group_is_worth_it_and_what_comes_after() -> None:
    torch.set_num_threads(1)
    agent = Learned(learn(made(), steps=400, seed=0), NAMES)
    rng = np.random.default_rng(1)
    mask, right, values = np.ones(GROUPS * len(NAMES), np.bool_), [], []
    for left in (1.0, 2.0):
        for _ in range(100):
            seen = rng.normal(size=SIZE).astype(np.float32)
            seen[1] = left
            best = int(seen[len(GLOBAL) :: len(OF_GROUP)].argmax()) * len(NAMES) + 1
            right.append(agent.act(seen, mask) == best)
            values.append(agent.values(seen, mask)[best])
    assert np.mean(right) > 0.7  # by chance .11
    now, then = np.mean(values[:100]), np.mean(values[100:])
    assert 0 < now < 0.11  # the truth is .09
    assert now + 0.03 < then < 0.2  # and .18


def test_where_nothing_is_worth_its_cost_it_stops() -> None:
    agent = Learned(learn(made(worth=0.0), steps=150, seed=0), NAMES)
    seen = np.random.default_rng(2).normal(size=(50, SIZE)).astype(np.float32)
    mask = np.ones(GROUPS * len(NAMES), np.bool_)
    stops = [NAMES[agent.act(each, mask) % len(NAMES)] == "stop" for each in seen]
    assert np.mean(stops) > 0.9


def test_the_same_seed_gives_the_same_network() -> None:
    one, other, third = (learn(made(300), steps=20, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.layers[0][0], other.layers[0][0])
    assert not np.array_equal(one.layers[0][0], third.layers[0][0])


def test_the_mean_of_networks_is_one_network() -> None:
    rng = np.random.default_rng(0)
    sizes = ((INPUTS, 5), (5, 4), (4, 1))
    networks = [
        Network([(rng.normal(size=s), rng.normal(size=s[1])) for s in sizes]) for _ in range(3)
    ]
    x = rng.normal(size=(7, INPUTS))
    np.testing.assert_allclose(mean_of(networks)(x), np.mean([n(x) for n in networks], axis=0))


def test_without_experience_nothing_is_learned() -> None:
    with pytest.raises(InvalidInputError, match="experience must hold a transition"):
        learn(made(0), steps=1, seed=0)
