"""Test kits: a run that is a formula, faults, and contracts of trainers and environments."""

from rlhf_tune.testing.env_contract import EnvContract
from rlhf_tune.testing.faulty import (
    FaultyTrainer,
    diverges,
    hangs,
    not_finite,
    out_of_memory,
    raises,
)
from rlhf_tune.testing.outside import outside
from rlhf_tune.testing.scripted import ScriptedModel, ScriptedTrainer
from rlhf_tune.testing.trainer_contract import Fitted, TrainerContract

__all__ = [
    "EnvContract",
    "FaultyTrainer",
    "Fitted",
    "ScriptedModel",
    "ScriptedTrainer",
    "TrainerContract",
    "diverges",
    "hangs",
    "not_finite",
    "out_of_memory",
    "outside",
    "raises",
]
