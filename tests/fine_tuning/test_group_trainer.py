"""A trainer of groups is a trainer like any other."""

from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("torch")

from tuned_models import torch_trainer

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.operations import GroupTrainer
from rlhf_tune.testing import TrainerContract


class TestGroupTrainer(TrainerContract):
    def make(self) -> GroupTrainer:
        trainer = GroupTrainer(torch_trainer())
        trainer.set(group=3, operation=1)
        return trainer

    def state(self, trainer: GroupTrainer) -> Mapping[str, Any]:
        weights = {k: v.numpy().copy() for k, v in trainer.model.state_dict().items()}
        moments = trainer._trainer._optimizer.state
        flat = {
            f"{i} {name}": value.numpy().copy()
            for i, p in enumerate(trainer.model.parameters())
            for name, value in moments.get(p, {}).items()
        }
        return weights | flat


def test_groups_and_operations_are_hyperparameters() -> None:
    trainer = GroupTrainer(torch_trainer())
    trainer.set(group=1, operation=2, learning_rate=0.5)
    assert dict(trainer.hyperparameters) == {
        "learning_rate": 0.5,
        "batch_size": 8,
        "group": 1,
        "operation": 2,
    }
    for wrong in ({"group": 4}, {"operation": -1}, {"group": 0.5}):
        with pytest.raises(InvalidInputError, match="must be a whole number below 4"):
            trainer.set(**wrong)
    assert trainer.hyperparameters["group"] == 1


def test_a_snapshot_as_plain_values_brings_back_the_group() -> None:
    trainer = GroupTrainer(torch_trainer())
    trainer.set(group=2, operation=1)
    values = trainer.saved(trainer.snapshot())
    trainer.set(group=0)
    trainer.restore(trainer.loaded(values))
    assert trainer.hyperparameters["group"] == 2
    assert trainer.identity["groups"]["head"] == ["7"]
