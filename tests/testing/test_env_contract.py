"""The contract of environments notices a broken one."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from rlhf_tune.envs import TuningEnv
from rlhf_tune.testing import EnvContract, ScriptedTrainer


class Sound(TuningEnv):
    """As it should be."""


class Wide(TuningEnv):
    """Its observations are in double precision."""

    def _seen(self):
        return super()._seen().astype(np.float64)


class Outside(TuningEnv):
    """Its observations leave their space."""

    def _seen(self):
        return super()._seen() + np.float32(20)


class Stale(TuningEnv):
    """It tells a mask that allows everything."""

    def _info(self, verdict, stretch):
        return {**super()._info(verdict, stretch), "action_mask": np.ones(15, np.bool_)}


class Vague(TuningEnv):
    """It tells violations as numbers."""

    def _info(self, verdict, stretch):
        return {**super()._info(verdict, stretch), "violation": 0}


class Endless(TuningEnv):
    """It may be stepped after its end."""

    def step(self, action):
        result = super().step(action)
        self._over = False
        return result


class Restless(TuningEnv):
    """Not even to stay is allowed."""

    def action_masks(self):
        mask = super().action_masks()
        mask[0] = False
        return mask


class Drawn(TuningEnv):
    """Its rewards are drawn from a stream of its own."""

    stream = np.random.default_rng(0)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.stream.random()), *rest


class Leaky(TuningEnv):
    """A reset goes on with the model as it is."""

    def reset(self, *, seed=None, options=None):
        self._first = self._trainer.snapshot()
        return super().reset(seed=seed, options=options)


class Harmful(TuningEnv):
    """A masked action loses the best state."""

    def step(self, action):
        if not self.action_masks()[action]:
            self._run.best = None
        return super().step(action) if self._run.best else (None, 0.0, True, False, {})


def kit(kind):
    class Kit(EnvContract):
        budget = 25

        def make(self):
            ranges = {"learning_rate": (1e-3, 0.1)}
            return kind(ScriptedTrainer(), steps=100, ranges=ranges)

        def best(self, env):
            return env._run.best and env._run.best.value

        def state(self, env):
            return vars(env._trainer.model)

    return Kit()


TESTS = [name for name in dir(EnvContract) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
def test_a_sound_one_passes(test):
    getattr(kit(Sound), test)()


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (Wide, "test_observations_are_finite_and_inside_their_space"),
        (Outside, "test_observations_are_finite_and_inside_their_space"),
        (Stale, "test_the_mask_is_told_and_asked_alike"),
        (Vague, "test_violations_are_told"),
        (Endless, "test_a_step_after_the_end_is_refused"),
        (Restless, "test_to_stay_is_allowed_at_first"),
        (Drawn, "test_the_same_seed_and_actions_give_the_same_episode"),
        (Leaky, "test_a_reset_brings_back_what_is_the_users"),
        (Leaky, "test_a_reset_in_the_middle_begins_anew"),
        (Harmful, "test_a_masked_action_leaves_the_best_state"),
    ],
)
def test_the_contract_notices(broken, noticed):
    with pytest.raises(AssertionError):
        getattr(kit(broken), noticed)()


def test_what_does_not_apply_is_skipped():
    class Bare(EnvContract):
        budget = 25

        def make(self):
            return TuningEnv(ScriptedTrainer(), steps=100)

        def blind(self):
            return None

    for test in (
        "test_gymnasium_accepts_it",
        "test_a_masked_action_leaves_the_best_state",
        "test_a_reset_brings_back_what_is_the_users",
    ):
        with pytest.raises(pytest.skip.Exception):
            getattr(Bare(), test)()
