"""Environments: what one step of tuning changes."""

from rlhf_tune.envs.tabular import TabularEnv
from rlhf_tune.envs.trainer import Trainer

__all__ = ["TabularEnv", "Trainer"]
