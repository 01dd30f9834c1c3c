"""Test kits: a training run that is a formula, and contracts of trainers and environments."""

from rlhf_tune.testing.env_contract import EnvContract
from rlhf_tune.testing.scripted import ScriptedModel, ScriptedTrainer
from rlhf_tune.testing.trainer_contract import TrainerContract

__all__ = ["EnvContract", "ScriptedModel", "ScriptedTrainer", "TrainerContract"]
