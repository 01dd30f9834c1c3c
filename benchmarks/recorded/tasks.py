"""The recorded tuning tasks, by split.

Data-set families are divided in `tables/split.json`, which was written before anything was tuned:
fit on `train`, choose on `validation`, and load `test` once, to report.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.pretraining.tables import Entry, read_entries

Split = Literal["train", "validation", "test"]

TABLES = Path(__file__).parents[1] / "tables"
MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "fgsm_accuracy")


@dataclass(frozen=True, eq=False)
class Task:
    """One (data set, network, optimizer), trained at every cell of a grid.

    S seeds, L learning rates, B batch sizes, E epochs; `fgsm_accuracy` after F of the epochs.

    Attributes:
        name: dataset-network-optimizer.
        dataset: The data set.
        family: The underlying data, by which tasks are split.
        network: The architecture, as `benchmarks.recorded.networks.network` names it.
        optimizer: `sgd` (momentum .9), `adam` or `adamw` (decay .01).
        learning_rates: [L], logarithmic.
        batch_sizes: [B].
        fgsm_epochs: [F] numbers of epochs.
        train_loss: [S, L, B, E] mean cross-entropy over the epoch's batches; inf: diverged.
        train_accuracy: [S, L, B, E] likewise; 0 if diverged.
        val_loss: [S, L, B, E] cross-entropy in nats, at most 1e4; inf: diverged.
        val_accuracy: [S, L, B, E]; 0 if diverged.
        fgsm_accuracy: [S, L, B, F] share of validation samples correct before and after FGSM.
        n_classes: The number of classes.
        n_val: Validation samples, for the noise of accuracies.
        eps: Radius of the attack, on inputs in [0, 1].
    """

    name: str
    dataset: str
    family: str
    network: str
    optimizer: str
    learning_rates: NDArray[np.float64]
    batch_sizes: NDArray[np.int64]
    fgsm_epochs: NDArray[np.int64]
    train_loss: NDArray[np.float16]
    train_accuracy: NDArray[np.float16]
    val_loss: NDArray[np.float32]
    val_accuracy: NDArray[np.float16]
    fgsm_accuracy: NDArray[np.float16]
    n_classes: int
    n_val: int
    eps: float

    @property
    def chance(self) -> float:
        """The loss of a uniform guess, log(n_classes): 1 on the scale of `normalised`."""
        return math.log(self.n_classes)


def load(split: Split, folder: Path = TABLES) -> list[Task]:
    """The tasks of one split, by name.

    Raises:
        KeyError: If there is no such split.
    """
    return [_task(entry) for entry in read_entries(folder, split, MEASURES)]


def read_split(folder: Path = TABLES) -> dict[str, list[str]]:
    """The families of each split."""
    content: dict[str, list[str]] = json.loads((folder / "split.json").read_text())
    return content


def _task(entry: Entry) -> Task:
    axes = ("learning_rates", "batch_sizes", "fgsm_epochs")
    keys = ("dataset", "family", "network", "optimizer", "n_classes", "n_val", "eps")
    return Task(
        name=entry.name,
        **{key: np.array(entry.about[key]) for key in axes},
        **{key: entry.about[key] for key in keys},
        **entry.arrays,
    )


def normalised(losses: NDArray[np.floating[Any]], chance: float) -> NDArray[np.float64]:
    """Losses [S, ...cells] on a scale where the task's best cell is 0 and a uniform guess is 1.

    With l = min(loss, chance) and m = the mean of l over seeds, (l - min m) / (chance - min m): at
    most 1, for diverged runs too; a lucky seed of a good cell may lie below 0.
    """
    clipped = np.minimum(losses.astype(np.float64), chance)
    best = clipped.mean(axis=0).min()
    return np.asarray((clipped - best) / (chance - best))


def normalised_regret(losses: NDArray[np.floating[Any]], chance: float) -> NDArray[np.float64]:
    """Regret [...cells] in [0, 1] of losses [S, ...cells]: `normalised`, averaged over seeds.

    For a task: `normalised_regret(task.val_loss[..., -1], task.chance)` [L, B].
    """
    mean = np.minimum(losses.astype(np.float64), chance).mean(axis=0, keepdims=True)
    return np.asarray(normalised(mean, chance)[0])
