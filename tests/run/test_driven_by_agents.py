"""An agent that learned in `TuningEnv` drives a run, by the same observation, moves and masks."""

import inspect
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from rlhf_tune.agents.dqn import DQN
from rlhf_tune.agents.q_learning import QLearning
from rlhf_tune.agents.replay import Batch, Replay
from rlhf_tune.envs import Follower, TuningEnv
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run import Run, RunPolicy
from rlhf_tune.run.moves import RATE_FACTORS, MoveSet
from rlhf_tune.run.policies import GUARD
from rlhf_tune.run.stretch import Guard, Move
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import ScriptedTrainer

EPOCHS = 20  # each a stretch, so that the batch may move before any; of 4096 samples in all sizes


def trainer(rate=0.01):
    return ScriptedTrainer(learning_rate=rate, samples=4096, noise=4.0)


def held():
    return [constraint("rate", lambda model: model.learning_rate, at_most=0.3)]


def environment(**arguments):
    return TuningEnv(trainer(), steps=EPOCHS * 128, stretch=128, **arguments)


def driven(agent, constraints=(), **arguments):
    policy = RunPolicy.of(agent, stretches=EPOCHS, **arguments)
    run = Run(trainer(), epochs=EPOCHS, policy=policy, constraints=constraints)
    run.drive(lambda epoch: None)
    return run.guarded


def played(agent, env):
    """An episode, without exploring."""
    observation, info = env.reset()
    over = False
    while not over:
        action = agent.act(observation, info["action_mask"])
        observation, _, terminated, truncated, info = env.step(np.int64(action))
        over = terminated or truncated
    return env.record


class Wanderer:
    """Random among the open moves; it remembers what it was shown."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)
        self.shown = []

    def act(self, observation, mask):
        self.shown.append((observation, mask))
        return self._rng.choice(np.flatnonzero(mask))


@pytest.mark.parametrize("constraints", [[], held()])
@pytest.mark.parametrize("guard", [GUARD, Guard(0.0, 0.0), None])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_moves_give_the_same_record_and_are_shown_the_same(seed, guard, constraints):
    here, there = Wanderer(seed), Wanderer(seed)
    record = played(here, environment(guard=guard, constraints=constraints))
    assert driven(there, guard=guard, constraints=constraints).record == record
    assert len({stretch.batch_size for stretch in record}) > 1
    for (seen, mask), (other, also) in zip(here.shown, there.shown, strict=True):
        assert seen.dtype == other.dtype == np.float32
        np.testing.assert_array_equal(seen, other)
        np.testing.assert_array_equal(mask, also)


class Learner:
    """Our DQN, learning from a replay buffer."""

    def __init__(self, env):
        self._moves = np.log2(np.array(env.moves)).astype(np.float32) / 2
        self._agent = DQN(self._moves, len(env.features), target_period=20, seed=0)
        self._replay, self._rng = Replay(500), np.random.default_rng(0)

    def act(self, observation, mask, epsilon=0.0):
        return self._agent.act(observation, mask, epsilon)

    def learn(self, seen, action, reward, discount, then, mask):
        values = np.float32(reward), np.float32(discount)
        self._replay.add(Batch(seen, self._moves[action], *values, then, mask))
        self._agent.learn(self._replay.sample(min(16, len(self._replay)), self._rng))


class Table:
    """Q-learning over decades of the rate."""

    def __init__(self, env):
        self._agent = QLearning(len(env.moves), step_size=0.3)
        self._column = env.features.index("rate")

    def act(self, observation, mask, epsilon=0.0):
        return self._agent.act(self._state(observation), mask, epsilon)

    def learn(self, seen, action, reward, discount, then, mask):
        self._agent.learn(self._state(seen), action, reward, discount, self._state(then), mask)

    def _state(self, observation):
        return round(2 * float(observation[self._column]))


@pytest.mark.parametrize("kind", [Learner, Table])
def test_an_agent_does_in_a_run_what_it_did_where_it_learned(kind):
    env = environment()
    agent = kind(env)
    for episode in range(6):
        seen, info = env.reset()
        over = False
        while not over:
            action = agent.act(seen, info["action_mask"], 1 - episode / 6)
            then, reward, terminated, truncated, info = env.step(np.int64(action))
            over = terminated or truncated
            agent.learn(seen, action, reward, 0.0 if over else 0.99, then, info["action_mask"])
            seen = then
    record = played(agent, env)
    assert driven(agent).record == record
    assert any(stretch.move != "stay" for stretch in record)


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO"])
def test_agents_of_stable_baselines_drive_a_run(name):
    baselines = pytest.importorskip("stable_baselines3")
    module = pytest.importorskip("sb3_contrib") if name == "MaskablePPO" else baselines
    env = environment()
    agent = getattr(module, name)("MlpPolicy", env, n_steps=32, batch_size=16, seed=0, device="cpu")
    agent.learn(64)
    first = driven(agent)
    assert first.left == 0
    assert first.record == driven(agent).record  # it does not explore
    masked = "action_masks" in inspect.signature(agent.predict).parameters
    assert masked == (name == "MaskablePPO")
    with pytest.raises(InvalidInputError, match=r"20 features and 15 moves.*19 features and 15"):
        driven(agent, constraints=held())


class Stubborn:
    """Wants to quadruple the rate, whatever is open."""

    def act(self, observation, mask):
        return 12


def test_a_move_against_the_mask_is_not_made():
    env = environment()
    assert env.moves[12] == (4.0, 1.0)
    guarded = driven(Stubborn(), moves=MoveSet(ranges={"learning_rate": (0.01, 0.05)}))
    rates = [stretch.learning_rate for stretch in guarded.record]
    assert rates == [0.04] * EPOCHS
    assert [stretch.move for stretch in guarded.record][:2] == ["rate x4", "stay"]


def test_a_run_ends_where_nothing_is_open():
    guarded = driven(Stubborn(), moves=MoveSet(ranges={"learning_rate": (1.0, 2.0)}))
    assert guarded.record == []


def test_the_moves_of_an_environment_can_be_its_own():
    env = environment(rate_factors=(1.0, 0.1), batch_factors=(1.0,))
    assert env.moves == ((1.0, 1.0), (0.1, 1.0))
    record = played(Wanderer(0), env)
    assert driven(Wanderer(0), moves=env.move_set).record == record


def test_within_an_epoch_the_batch_does_not_move():
    agent = Wanderer(0)
    run = Run(trainer(), epochs=2, policy=RunPolicy.of(agent, stretches=10))
    run.drive(lambda epoch: None)
    sizes = [stretch.batch_size for stretch in run.guarded.record]
    changes = [i for i, (a, b) in enumerate(pairwise(sizes), start=1) if a != b]
    assert set(changes) <= {5}
    resizes = [by["batch_size"] != 1 for by in MoveSet().actions]
    assert not any(np.any(mask[resizes]) for _, mask in agent.shown[1:5])


def test_a_run_without_a_batch_size_masks_its_moves():
    class Fixed(ScriptedTrainer):
        @property
        def hyperparameters(self):
            return {"learning_rate": self._now["learning_rate"]}

    agent = Wanderer(0)
    Run(Fixed(samples=4096), epochs=5, policy=RunPolicy.of(agent, stretches=5)).drive(
        lambda _: None
    )
    resizes = [by["batch_size"] != 1 for by in MoveSet().actions]
    assert len(agent.shown) == 5
    assert not any(np.any(mask[resizes]) for _, mask in agent.shown)
    assert TuningEnv(Fixed(), steps=50).moves == tuple((by, 1.0) for by in RATE_FACTORS)


def test_what_is_no_agent_is_refused():
    with pytest.raises(InvalidInputError, match=r"act\(observation, mask\).*got object"):
        RunPolicy.of(object())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"confidence": 1.0}, "within"),
        ({"factors": {"learning_rate": [2.0, 1.0]}}, "begin with 1"),
    ],
)
def test_moves_that_break_a_rule_are_refused(wrong, message):
    with pytest.raises(InvalidInputError, match=message):
        MoveSet(**wrong)


# The other way round: the policies of `fit` in the environment


def test_bold_plays_in_the_environment_as_in_a_run():
    env = environment(guard=Guard(0.0, 0.0))
    record = played(Follower(env, "bold"), env)
    run = Run(trainer(), epochs=EPOCHS, policy="bold")
    run.drive(lambda epoch: None)
    ours, theirs = (
        [(s.learning_rate, s.value, s.verdict) for s in r] for r in (record, run.guarded.record)
    )
    assert len(ours) == EPOCHS
    assert ours == theirs


@pytest.mark.parametrize("policy", ["default", "dqn", "grow", "constant"])
def test_every_policy_plays_in_the_environment(policy):
    env = environment()
    record = played(Follower(env, policy), env)
    assert len(record) == EPOCHS
    assert min(s.value for s in record) < 0.5 * env._run.unit
    rates = [stretch.learning_rate for stretch in record]
    assert (len(set(rates)) == 1) == (policy == "constant")
    if policy == "default":
        assert rates[-1] < 0.2 * max(rates)  # the decay, in factors
    assert record == played(Follower(env, policy), env)


def test_the_notes_of_a_policy_last_from_move_to_move():
    noted = []

    def decide(state):
        noted.append(state.record[-1].factor if state.record else None)
        return Move("rate x2", {"learning_rate": 0.02}, factor=2.0 + len(state.record))

    env = environment()
    env.reset()
    env.step(np.int64(0))  # by somebody else
    follower = Follower(env, RunPolicy(decide, None))
    for _ in range(3):
        env.step(np.int64(follower.act()))
    assert noted == [1.0, 3.0, 4.0]
