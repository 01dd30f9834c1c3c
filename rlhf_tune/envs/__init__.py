"""Environments: what one step of tuning changes."""

from rlhf_tune.errors import optional

with optional("gymnasium", extra="rl"):
    from rlhf_tune.envs.fairness import AveragedPolicy, FairnessCost
    from rlhf_tune.envs.fine_tuning import FineTuningEnv
    from rlhf_tune.envs.following import Follower
    from rlhf_tune.envs.levels import LevelledEnv
    from rlhf_tune.envs.tabular import TabularEnv
    from rlhf_tune.envs.tuning import TuningEnv
    from rlhf_tune.run.trainer import Trainer

__all__ = [
    "AveragedPolicy",
    "FairnessCost",
    "FineTuningEnv",
    "Follower",
    "LevelledEnv",
    "TabularEnv",
    "Trainer",
    "TuningEnv",
]
