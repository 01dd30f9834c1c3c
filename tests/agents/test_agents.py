"""The agents on decision processes with a known solution."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rlhf_tune.agents import network
from rlhf_tune.agents.dqn import DQN, forward, initial_weights, layers_of, weights_of
from rlhf_tune.agents.exploration import epsilon_greedy
from rlhf_tune.agents.q_learning import QLearning
from rlhf_tune.agents.replay import Batch, Replay
from rlhf_tune.errors import InvalidInputError, NoAllowedMoveError

N = 5  # a corridor of five rooms; entering the last one pays 1 and ends the episode
MOVES = np.array([[-1.0], [1.0]])
GAMMA = 0.9


def corridor(state: int, action: int) -> tuple[int, float, float]:
    """Next state, reward and discount."""
    after = min(max(state + (1 if action else -1), 0), N - 1)
    done = after == N - 1
    return after, float(done), 0.0 if done else GAMMA


def mask(state: int) -> np.ndarray:
    return np.array([state > 0, True])


def transitions() -> list[tuple[int, int, int, float, float]]:
    return [(s, a, *corridor(s, a)) for s in range(N - 1) for a in range(2) if mask(s)[a]]


def optimal(state: int) -> float:
    return GAMMA ** (N - 2 - state)


def one_hot(state: int) -> np.ndarray:
    return np.eye(N, dtype=np.float32)[state]


def test_q_learning_finds_the_corridors_values() -> None:
    agent = QLearning(2, step_size=0.5)
    for _ in range(200):
        for s, a, after, reward, discount in transitions():
            agent.learn(s, a, reward, discount, after, mask(after))
    for s in range(N - 1):
        assert agent.act(s, mask(s)) == 1
        assert agent.values(s)[1] == pytest.approx(optimal(s), abs=1e-3)


def corridor_dqn(target_period: int | None = 20, *, with_mask: bool = True) -> DQN:
    agent = DQN(MOVES, N, target_period=target_period, learning_rate=1e-2, seed=0)
    replay = Replay(100)
    for s, a, after, reward, discount in transitions():
        replay.add(
            Batch(
                one_hot(s),
                MOVES[a].astype(np.float32),
                np.float32(reward),
                np.float32(discount),
                one_hot(after),
                mask(after) if with_mask else np.ones(2, dtype=bool),
            )
        )
    rng = np.random.default_rng(0)
    for _ in range(600):
        agent.learn(replay.sample(16, rng))
    return agent


@pytest.mark.parametrize("target_period", [20, None])
def test_dqn_finds_the_corridors_values(target_period: int | None) -> None:
    agent = corridor_dqn(target_period)
    q = agent.values(np.stack([one_hot(s) for s in range(N - 1)]))
    for s in range(N - 1):
        assert agent.act(one_hot(s), mask(s)) == 1
        assert q[s, 1] == pytest.approx(optimal(s), abs=0.05)


def test_scores_of_pairs_equal_the_table_of_values() -> None:
    agent = corridor_dqn()
    observations = np.stack([one_hot(s) for s in range(N)])
    table = agent.values(observations)
    for a, move in enumerate(MOVES):
        pairs = agent.score(observations, np.repeat(move[None], N, axis=0))
        np.testing.assert_allclose(pairs, table[:, a], rtol=1e-5, atol=1e-6)


def test_dqn_is_a_function_of_its_seed_and_leaves_the_users_stream_alone() -> None:
    state = torch.random.get_rng_state()
    with torch.no_grad():  # learning works wherever the caller is
        first, second = corridor_dqn(), corridor_dqn()
    np.testing.assert_array_equal(first.values(np.eye(N)), second.values(np.eye(N)))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_untrained_dqn_prefers_nothing() -> None:
    assert (DQN(MOVES, N).values(np.eye(N)) == 0).all()


def test_exploration_is_masked_like_exploitation() -> None:
    rng = np.random.default_rng(0)
    q, allowed = np.array([9.0, 1.0, 2.0, 0.0]), np.array([False, True, True, False])
    assert {epsilon_greedy(q, allowed, 1.0, rng) for _ in range(100)} == {1, 2}
    assert {epsilon_greedy(q, allowed, 0.0, rng) for _ in range(100)} == {2}


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_nothing_allowed_raises(epsilon: float) -> None:
    nothing = np.zeros(2, dtype=bool)
    with pytest.raises(NoAllowedMoveError, match="forbids all 2"):
        QLearning(2).act("s", nothing, epsilon)
    with pytest.raises(NoAllowedMoveError, match="forbids all 2"):
        DQN(MOVES, N).act(one_hot(0), nothing, epsilon)


def test_a_next_state_without_an_allowed_action_is_terminal() -> None:
    agent = QLearning(2, step_size=1.0)
    agent.learn("b", 0, 5.0, 0.0, "end", np.ones(2, dtype=bool))
    agent.learn("a", 0, 1.0, 0.9, "b", np.zeros(2, dtype=bool))
    assert agent.values("a")[0] == 1.0


def test_replay_drops_the_oldest_and_says_when_empty() -> None:
    replay = Replay(2)
    with pytest.raises(InvalidInputError, match="before sampling"):
        replay.sample(1, np.random.default_rng(0))
    for reward in (1.0, 2.0, 3.0):
        zero = np.zeros(1, dtype=np.float32)
        replay.add(Batch(zero, zero, np.float32(reward), zero[0], zero, np.ones(1, dtype=bool)))
    assert set(replay.sample(50, np.random.default_rng(0)).reward) == {2.0, 3.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QLearning(2, step_size=0), "`step_size`"),
        (lambda: DQN(np.zeros(3), 1), "`moves`"),
        (lambda: DQN(MOVES, 1, target_period=0), "`target_period`"),
        (lambda: Replay(0), "`capacity`"),
    ],
)
def test_bad_arguments(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_the_network_in_numpy_is_the_one_in_torch_and_its_file(tmp_path: Path) -> None:
    weights = initial_weights((5, 8, 8, 2), seed=1)
    weights[-1][0].normal_()
    x = np.random.default_rng(0).normal(size=(7, 5))
    ours = network.Network(layers_of(weights))
    expected = forward(weights, torch.as_tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(ours(x), expected, atol=1e-5)
    for layer, again in zip(weights, weights_of(ours.layers), strict=True):
        assert all(torch.equal(*pair) for pair in zip(layer, again, strict=True))
    network.save(ours, tmp_path / "net.safetensors", {"seed": "1"}, margin=np.array([0.25]))
    read, others = network.load(tmp_path / "net.safetensors")
    assert read.inputs == 5
    assert others == {"margin": 0.25}
    np.testing.assert_array_equal(read(x), ours(x))
