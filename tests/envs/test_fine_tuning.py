"""Fine-tuning as an environment."""

from typing import Any

import torch

from rlhf_tune.envs import FineTuningEnv
from rlhf_tune.testing import EnvContract
from tests.fine_tuning.tuned_models import torch_trainer


class TestFineTuningEnv(EnvContract):
    budget = 6

    def make(self) -> FineTuningEnv:
        return FineTuningEnv(torch_trainer(), steps=6)

    def best(self, env: FineTuningEnv) -> float:
        return env.tuning.run.best.value

    def state(self, env: FineTuningEnv) -> dict[str, Any]:
        state = env.tuning.trainer.model.state_dict()
        return {k: v.numpy().copy() for k, v in state.items()} | {
            "rng": torch.get_rng_state().numpy()
        }
