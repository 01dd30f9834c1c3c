"""Test kits: a training run that is a formula, and contracts of trainers and environments."""

from rlhf_tune.testing.env_contract import EnvContract
from rlhf_tune.testing.outside import outside
from rlhf_tune.testing.scripted import ScriptedModel, ScriptedTrainer
from rlhf_tune.testing.trainer_contract import Fitted, TrainerContract

__all__ = [
    "EnvContract",
    "Fitted",
    "ScriptedModel",
    "ScriptedTrainer",
    "TrainerContract",
    "outside",
]
