"""Fine-tuning as an environment."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from rlhf_tune.envs import FineTuningEnv, LevelledEnv
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import EnvContract
from tests.fine_tuning.tuned_models import cnn, torch_trainer

FIRST = cnn()[7].weight.detach()


def still(model: Any) -> float:
    return float((model[7].weight.detach() - FIRST).abs().max())


def constrained() -> FineTuningEnv:
    """The head must stay, so what trains it is masked once that was tried."""
    ceiling = constraint("still", still, at_most=1e-6)
    floor = constraint("floor", lambda model: 1.0, at_least=0.5)  # so that the start is certified
    return FineTuningEnv(torch_trainer(), steps=6, constraints=[ceiling, floor])


class TestFineTuningEnv(EnvContract):
    budget = 6

    def make(self) -> FineTuningEnv:
        return constrained()

    def best(self, env: FineTuningEnv) -> float:
        return env.tuning.run.best.value

    def state(self, env: FineTuningEnv) -> dict[str, Any]:
        state = env.tuning.trainer.model.state_dict()
        return {k: v.numpy().copy() for k, v in state.items()} | {
            "rng": torch.get_rng_state().numpy()
        }


class TestLevelledEnv(EnvContract):
    budget = 12

    def make(self) -> LevelledEnv:
        return LevelledEnv(constrained())

    def best(self, env: LevelledEnv) -> float:
        return env.inside.tuning.run.best.value

    def state(self, env: LevelledEnv) -> dict[str, Any]:
        state = env.inside.tuning.trainer.model.state_dict()
        return {k: v.numpy().copy() for k, v in state.items()}


def test_the_level_is_seen_and_a_decision_takes_both() -> None:
    env = LevelledEnv(FineTuningEnv(torch_trainer(), steps=6, tune_cost=0.02))
    seen, info = env.reset(seed=0)
    assert seen[env.features.index("level")] == 0
    assert list(info["action_mask"]) == [True] * 4
    seen, reward, _, _, info = env.step(np.int64(2))
    assert (reward, env.inside.record) == (0.0, [])
    assert seen[env.features.index("level")] == 1
    assert seen[env.features.index("last head")] == 1
    seen, reward, _, _, info = env.step(np.int64(1))
    assert (info["group"], info["operation"]) == ("head", "tune")
    assert seen[env.features.index("level")] == 0
    assert reward == pytest.approx(info["gain"] - 0.02)
