"""Environments: what one step of tuning changes."""

from rlhf_tune.envs.tabular import TabularEnv
from rlhf_tune.envs.trainer import Trainer
from rlhf_tune.envs.tuning import TuningEnv

__all__ = ["TabularEnv", "Trainer", "TuningEnv"]
