"""TuningEnv keeps Gymnasium's contract and its own: verified stretches, masks, a charged budget."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from rlhf_tune import rewards
from rlhf_tune.envs.tuning import TuningEnv
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.observation import FEATURES
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import EnvContract, ScriptedTrainer

MOVES = {"stay": (1.0, 1.0), "up": (4.0, 1.0), "down": (0.25, 1.0), "grow": (1.0, 2.0)}


def make(trainer=None, **arguments):
    return TuningEnv(trainer or ScriptedTrainer(), **{"steps": 100, **arguments})


def act(env, move):
    return env.step(np.int64(env.moves.index(MOVES[move])))


def rate_at_most(bound):
    return constraint("rate", lambda model: model.learning_rate, at_most=bound)


def walk(env, seed=0):
    """A random allowed episode: (observation, reward, terminated, truncated, info) of each step."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    trace = [(observation, 0.0, False, False, info)]
    while not (trace[-1][2] or trace[-1][3]):
        trace.append(env.step(rng.choice(np.flatnonzero(trace[-1][4]["action_mask"]))))
    return trace


class TestContract(EnvContract):
    budget = 25

    def make(self):
        return make()

    def best(self, env):
        return env._run.best.value

    def state(self, env):
        return {**vars(env._trainer.model), **env._trainer.hyperparameters}


class TestContractUnderConstraintsInANarrowRange(TestContract):
    def make(self):
        ranges = {"learning_rate": (1e-3, 0.1), "batch_size": (16, 64)}
        return make(constraints=[rate_at_most(0.05)], ranges=ranges)


def seen(env, observation):
    return dict(zip(env.features, observation.tolist(), strict=True))


def test_the_observation_is_named_and_means_what_it_says():
    env = make(constraints=[rate_at_most(0.05)], stretch=10)
    observation, _ = env.reset()
    assert env.features == (*FEATURES, "margin rate")
    first = seen(env, observation)
    neutral = ("loss", "slope", "slope over four stretches", "training slope", "factor", "batch")
    assert {first[name] for name in (*neutral, "generalisation gap", "cuts", "rolled back")} == {0}
    assert first["rate"] == pytest.approx(1)  # .01, relative to .001
    assert first["progress"] == pytest.approx(0.05)
    assert (first["certified"], first["margin"], first["margin rate"]) == (0, 0, 0)
    observation, *_ = act(env, "up")
    plain = ScriptedTrainer(learning_rate=0.04)
    loss, value = plain.train(10)["loss"], plain.evaluate()["val_loss"]
    after = seen(env, observation)
    assert after["loss"] == pytest.approx(np.log10(value))  # 1 before training
    assert (after["slope"], after["loss above the best"]) == (0, 0)
    assert after["generalisation gap"] == pytest.approx(np.log(value / loss))
    assert after["rate"] == pytest.approx(np.log10(40))
    assert after["factor"] == pytest.approx(2 / 3)
    assert after["progress"] == pytest.approx(0.15)
    assert after["certified"] == 1
    assert after["margin rate"] == pytest.approx(0.01)
    assert after["margin"] == pytest.approx(0.1)


def test_the_spread_of_the_training_loss_is_recorded_where_it_is_reported():
    class Spread(ScriptedTrainer):
        def train(self, steps):
            return {**super().train(steps), "spread": 0.25}

    env = make(Spread())
    env.reset()
    act(env, "stay")
    assert env.record[0].spread == 0.25
    assert "spread" not in env.record[0].training


def test_the_observation_of_a_loss_that_is_not_reported_stays_neutral():
    class Accurate(ScriptedTrainer):
        def evaluate(self):
            return {"val_accuracy": 1 / (1 + self.model.excess)}

    env = make(Accurate(), monitor="val_accuracy", mode="max")
    trace = walk(env)
    losses = [step[0][:6] for step in trace]
    assert not np.any(losses)
    assert env.observation_space.contains(trace[-1][0])


def test_what_a_batch_grows_to_leaves_a_step_of_the_budget():
    env = make(ScriptedTrainer(samples=3200), steps=11, stretch=5)
    env.reset()
    act(env, "stay")
    act(env, "stay")
    assert env._run.left == 1
    assert not env.action_masks()[env.moves.index(MOVES["grow"])]


def test_ranges_may_be_open():
    env = make(ranges={"learning_rate": (0.0, np.inf), "batch_size": (1, np.inf)})
    env.reset()
    assert env.action_masks().all()


def test_a_reward_sees_the_costs_of_the_constraints():
    changes = []

    def reward(change):
        changes.append(change)
        return -max(0.0, change.costs["rate"])

    env = make(constraints=[rate_at_most(0.02)], stretch=10, reward=reward)
    env.reset()
    assert act(env, "stay")[1] == 0
    assert act(env, "up")[1] == pytest.approx(-0.02)
    assert changes[0].costs == {"rate": pytest.approx(-0.01)}
    plain = rewards.Change(
        0, 0, moved=False, share=0, rolled_back=False, violation=False, final=False
    )
    assert plain.costs == {}


@pytest.mark.parametrize("seed", range(3))
def test_rewards_sum_to_the_improvement_of_the_best_state(seed):
    env = make()
    trace = walk(env, seed)
    best = env.hand_back()
    assert sum(step[1] for step in trace) == pytest.approx(1 - best.excess / 2)
    assert min(step[1] for step in trace) >= 0


def test_a_terminal_return_is_the_same_sum_paid_at_the_end():
    gains = [step[1] for step in walk(make(), 1)]
    final = [step[1] for step in walk(make(reward=rewards.final_gain), 1)]
    assert final[:-1] == [0.0] * (len(final) - 1)
    assert final[-1] == pytest.approx(sum(gains))


def test_reward_terms_add_up():
    terms = rewards.switching(0.5), rewards.spending(2.0)
    env = make(reward=rewards.total(rewards.gain, *terms), stretch=10)
    plain = make(stretch=10)
    env.reset()
    plain.reset()
    assert act(env, "up")[1] == pytest.approx(act(plain, "up")[1] - 0.5 - 0.2)
    assert act(env, "stay")[1] == pytest.approx(act(plain, "stay")[1] - 0.2)


def test_a_diverged_stretch_is_rolled_back_charged_and_its_move_masked():
    trainer = ScriptedTrainer(learning_rate=1.0)
    env = make(trainer, stretch=10)
    env.reset()
    before = vars(trainer.model).copy()
    observation, reward, *_, info = act(env, "up")
    assert info["verdict"] == "worse"
    assert reward == 0.0
    assert vars(trainer.model) == before
    assert info["learning_rate"] == 1.0
    assert not info["action_mask"][env.moves.index(MOVES["up"])]
    after = seen(env, observation)
    assert after["progress"] == pytest.approx(0.15)  # the middle of the next stretch
    assert after["rolled back"] == 1
    act(env, "stay")  # another state: the move may be tried again
    assert env.action_masks()[env.moves.index(MOVES["up"])]


def test_before_a_certified_state_violations_are_reported_and_training_goes_on():
    trainer = ScriptedTrainer(learning_rate=0.02)
    env = make(trainer, constraints=[rate_at_most(0.01)], stretch=10)
    env.reset()
    *_, info = act(env, "stay")
    assert (info["verdict"], info["violation"]) == ("committed", True)
    assert trainer.model.steps == 10
    with pytest.raises(CannotCertify):
        env.hand_back()


def test_after_a_certified_state_violations_are_rolled_back_and_masked():
    trainer = ScriptedTrainer(learning_rate=0.01)
    env = make(trainer, constraints=[rate_at_most(0.02)], stretch=10)
    env.reset()
    *_, info = act(env, "stay")
    assert (info["verdict"], info["violation"]) == ("committed", False)
    *_, info = act(env, "up")
    assert (info["verdict"], info["violation"]) == ("violates", True)
    assert info["costs"]["rate"] == pytest.approx(0.02)
    assert trainer.model.steps == 10
    assert not info["action_mask"][env.moves.index(MOVES["up"])]
    assert env.hand_back().learning_rate == 0.01


def test_a_move_that_made_a_cost_worse_stays_masked_at_a_high_confidence():
    masks = []
    for confidence in (0.0, 0.5):
        env = make(constraints=[rate_at_most(0.05)], stretch=5, confidence=confidence)
        env.reset()
        for move in ("stay", "up", "stay"):
            *_, info = act(env, move)
            assert info["verdict"] == "committed"
        masks.append(info["action_mask"][env.moves.index(MOVES["up"])])
        assert info["action_mask"][0]
    assert masks == [True, False]


def test_a_masked_action_is_not_carried_out_and_costs_its_share():
    trainer = ScriptedTrainer(learning_rate=0.01)
    env = make(trainer, ranges={"learning_rate": (1e-3, 0.02)}, stretch=10)
    env.reset()
    observation, reward, *_, info = act(env, "up")
    assert info["verdict"] == "masked"
    assert (trainer.model.steps, reward) == (0, 0.0)
    assert seen(env, observation)["progress"] == pytest.approx(0.15)


def test_the_episode_ends_if_nothing_is_allowed():
    env = make(constraints=[rate_at_most(0.01)], stretch=10, rate_factors=[1], batch_factors=[1])
    env.reset(options={"learning_rate": 0.01})
    assert act(env, "stay")[4]["verdict"] == "committed"
    env._trainer.model.learning_rate = 0.0
    env._constraints[0]._bound = -1.0
    _, _, terminated, truncated, info = act(env, "stay")
    assert (terminated, truncated) == (True, False)
    assert not info["action_mask"].any()


def test_the_budget_is_kept_in_samples():
    trainer = ScriptedTrainer(samples=3200)
    env = make(trainer, stretch=10)
    env.reset()
    *_, info = act(env, "grow")
    assert info["batch_size"] == 64
    assert trainer.model.steps == 5
    assert env._run.spent == pytest.approx(10 / 100)


def test_an_episode_spends_the_budget_and_no_more():
    for seed in range(5):
        env = make(ScriptedTrainer(samples=3200), steps=150)
        trace = walk(env, seed)
        assert trace[-1][2:4] == (False, True)
        samples = sum(stretch.steps * stretch.batch_size for stretch in env.record)
        assert samples <= 150 * 32
        with pytest.raises(InvalidInputError, match="reset"):
            env.step(np.int64(0))


def test_every_episode_begins_alike_unless_told_otherwise():
    env = make()
    first = [step[0] for step in walk(env, 3)]
    np.testing.assert_array_equal(first, [step[0] for step in walk(env, 3)])
    observation, info = env.reset(options={"learning_rate": 0.5, "batch_size": 64})
    assert (info["learning_rate"], info["batch_size"]) == (0.5, 64)
    assert seen(env, observation)["rate"] == pytest.approx(np.log10(500))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stretch": 101}, "1 <= stretch <= steps"),
        ({"steps": 0}, "1 <= stretch <= steps"),
        ({"confidence": 1.0}, "within"),
        ({"rate_factors": [2, 1]}, "begin with 1"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InvalidInputError, match=message):
        make(**wrong)


@pytest.mark.parametrize("name", ["DQN", "PPO", "A2C", "MaskablePPO"])
def test_agents_of_stable_baselines_train_on_it(name):
    baselines = pytest.importorskip("stable_baselines3")
    module = pytest.importorskip("sb3_contrib") if name == "MaskablePPO" else baselines
    sizes = {"learning_starts": 20} if name == "DQN" else {"n_steps": 32}
    sizes |= {"batch_size": 16} if name != "A2C" else {}
    env = make(ScriptedTrainer(learning_rate=1e-4), constraints=[rate_at_most(0.5)])
    agent = getattr(module, name)("MlpPolicy", env, seed=0, device="cpu", **sizes)
    agent.learn(64)
    observation, info = env.reset()
    keywords = {"action_masks": env.action_masks()} if name == "MaskablePPO" else {}
    action, _ = agent.predict(observation, deterministic=True, **keywords)
    assert env.action_space.contains(np.int64(action))
    if name == "MaskablePPO":
        assert info["action_mask"][action]
        assert agent.num_timesteps >= 64


def test_the_known_best_policy_beats_staying():
    def episode(choose):
        trainer = ScriptedTrainer(learning_rate=0.01)
        env = make(trainer, stretch=4)
        env.reset()
        over = False
        while not over:
            *_, terminated, truncated, _ = env.step(np.int64(choose(env, trainer)))
            over = terminated or truncated
        return env.hand_back().excess

    def nearest(env, trainer):
        rates = [rate * trainer.hyperparameters["learning_rate"] for rate, _ in env.moves]
        off = np.abs(np.log(np.array(rates) / trainer.best_rate))
        return np.where(env.action_masks() & [by == 1 for _, by in env.moves], off, np.inf).argmin()

    assert episode(nearest) < 0.2 * episode(lambda env, trainer: 0)
