"""Environments: what one step of tuning changes."""

from rlhf_tune.envs.tabular import TabularEnv

__all__ = ["TabularEnv"]
