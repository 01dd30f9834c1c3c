"""A contract that any environment must pass, as tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.testing.skipping import skip

if TYPE_CHECKING:
    import gymnasium as gym


class Env(Protocol):
    """A Gymnasium environment with masks."""

    observation_space: gym.spaces.Box
    action_space: gym.spaces.Discrete

    def reset(self, *, seed: int | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode."""
        ...

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Act."""
        ...

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions [A] are allowed."""
        ...


class Step(NamedTuple):
    """What an environment returned."""

    observation: NDArray[np.float32]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether the episode is."""
        return self.terminated or self.truncated


class EnvContract:
    """What every environment of this project must do, as tests for pytest.

    Subclass it under a name that starts with Test, and say how to make an environment:

        class TestMine(EnvContract):
            budget = 20

            def make(self):
                return MyEnv(...)

            def best(self, env):
                return env.incumbent

            def state(self, env):
                return {"weights": env.model.weights}

    An episode should be short, and mask something on its way. Action 0 is to stay.
    """

    budget: ClassVar[int]
    """The most steps that an episode has."""
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)
    """Of the episodes; their actions are drawn from what the masks allow."""

    def make(self) -> Any:
        """A fresh environment, equal to the last one made."""
        raise NotImplementedError

    def blind(self) -> Any:
        """One for Gymnasium's checker, which takes actions without a look at the mask.

        None skips the test.
        """
        return self.make()

    def best(self, env: Any) -> Any:
        """The best state so far, or its value, to be compared by ==; None skips the test."""
        return None

    def state(self, env: Any) -> Mapping[str, ArrayLike]:
        """Copies of what an episode changes of the user's, by name; none skips the test."""
        return {}

    def test_gymnasium_accepts_it(self) -> None:
        from gymnasium.utils.env_checker import check_env

        env = self.blind()
        if env is None:
            skip("no environment takes actions blindly")
        check_env(env, skip_render_check=True)

    def test_observations_are_finite_and_inside_their_space(self) -> None:
        for env, step in self._steps():
            assert step.observation.dtype == np.float32
            assert np.isfinite(step.observation).all()
            assert env.observation_space.contains(step.observation), step.observation

    def test_the_mask_is_told_and_asked_alike(self) -> None:
        for env, step in self._steps():
            mask = env.action_masks()
            assert mask.dtype == np.bool_
            assert mask.shape == (env.action_space.n,)
            np.testing.assert_array_equal(step.info["action_mask"], mask)

    def test_to_stay_is_allowed_at_first(self) -> None:
        for seed in self.seeds:
            assert _begun(self.make(), seed).info["action_mask"][0]

    def test_something_is_allowed_unless_the_episode_has_terminated(self) -> None:
        for _, step in self._steps():
            assert step.terminated or step.info["action_mask"].any()

    def test_violations_are_told(self) -> None:
        for _, step in self._steps():
            assert isinstance(step.info["violation"], bool)

    def test_an_episode_ends_within_its_budget(self) -> None:
        for seed in self.seeds:
            steps = list(_episode(self.make(), seed))
            assert len(steps) - 1 <= self.budget
            assert steps[-1].over

    def test_a_step_after_the_end_is_refused(self) -> None:
        for seed in self.seeds:
            env = self.make()
            list(_episode(env, seed))
            _assert_refused(env, 0)

    def test_a_masked_action_leaves_the_best_state(self) -> None:
        tried = 0
        for seed in self.seeds:
            env = self.make()
            for step in _episode(env, seed):
                masked = np.flatnonzero(~step.info["action_mask"])
                before = self.best(env)
                if before is None:
                    skip("the best state is not told")
                if len(masked) and not step.over:
                    tried += 1
                    _take(env, int(masked[0]))
                    assert self.best(env) == before
                    break
        if not tried:
            skip("nothing was masked")

    def test_the_same_seed_and_actions_give_the_same_episode(self) -> None:
        for seed in self.seeds:
            _assert_same(list(_episode(self.make(), seed)), list(_episode(self.make(), seed)))

    def test_a_reset_in_the_middle_begins_anew(self) -> None:
        for seed in self.seeds:
            env = self.make()
            for count, _ in enumerate(_episode(env, seed + 1)):
                if count == self.budget // 2:
                    break
            _assert_same(list(_episode(env, seed)), list(_episode(self.make(), seed)))

    def test_a_reset_brings_back_what_is_the_users(self) -> None:
        env = self.make()
        _begun(env, 0)
        first = {name: np.array(value) for name, value in self.state(env).items()}
        if not first:
            skip("an episode changes nothing of the user's")
        list(_episode(env, 0))
        _begun(env, 0)
        for name, value in self.state(env).items():
            np.testing.assert_array_equal(value, first[name], err_msg=name)

    def _steps(self) -> Iterator[tuple[Env, Step]]:
        for seed in self.seeds:
            env = self.make()
            for step in _episode(env, seed):
                yield env, step


def _begun(env: Env, seed: int) -> Step:
    observation, info = env.reset(seed=seed)
    return Step(observation, 0.0, False, False, info)


def _episode(env: Env, seed: int) -> Iterator[Step]:
    """Random allowed actions to the end."""
    rng = np.random.default_rng(seed)
    step = _begun(env, seed)
    yield step
    while not step.over:
        step = Step(*env.step(np.int64(rng.choice(np.flatnonzero(step.info["action_mask"])))))
        yield step


def _take(env: Env, action: int) -> None:
    """An action that is masked may be refused, or be lost."""
    try:
        env.step(np.int64(action))
    except InvalidInputError:
        return


def _assert_refused(env: Env, action: int) -> None:
    try:
        env.step(np.int64(action))
    except InvalidInputError:
        return
    raise AssertionError("a step after the end must raise InvalidInputError")


def _assert_same(one: list[Step], other: list[Step]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.info["action_mask"], b.info["action_mask"])
        assert a[1:4] == b[1:4]
