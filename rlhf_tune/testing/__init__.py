"""Test kits: a training run that is a formula, and a contract that any trainer must pass."""

from rlhf_tune.testing.scripted import ScriptedModel, ScriptedTrainer
from rlhf_tune.testing.trainer_contract import TrainerContract

__all__ = ["ScriptedModel", "ScriptedTrainer", "TrainerContract"]
