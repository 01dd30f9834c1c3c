"""Reads a folder of recorded tasks (`benchmarks/tables` of the source tree).

`split.json` says which families of data sets are in a split, `manifest.json` holds the grid and an
entry for each task, and `<family>.npz` the arrays of that family's tasks, named `<task>/<measure>`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_tune import npz
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.priors import Recorded

Arrays = dict[str, NDArray[Any]]
"""The arrays of a task by measure, [S seeds, L learning rates, B batch sizes, epochs] each."""


class Entry(NamedTuple):
    """One recorded task: its name, what the manifest says of it and of the grid, its arrays."""

    name: str
    about: Mapping[str, Any]
    arrays: Arrays


def read_tables(folder: Path, split: str = "train") -> dict[str, list[Recorded]]:
    """The tasks of one split, by measure: "performance" and "robustness".

    Performance is the final validation loss, where 0 is the best cell and -1 a uniform guess;
    robustness the final FGSM accuracy.

    Raises:
        InvalidInputError: If the folder holds no recorded tasks.
    """
    try:
        entries = read_entries(folder, split, ("val_loss", "fgsm_accuracy"))
        tasks = [_surfaces(entry) for entry in entries]
    except (OSError, KeyError, ValueError) as exc:
        raise InvalidInputError(
            f"`--tables` must be a folder that `python -m benchmarks.record` wrote, but {folder} "
            f"is not ({exc})"
        ) from exc
    return {measure: [task[measure] for task in tasks] for measure in ("performance", "robustness")}


def read_entries(folder: Path, split: str, measures: Container[str]) -> list[Entry]:
    """The tasks of one split in the order of the manifest, with some of their measures.

    Raises:
        OSError, KeyError, ValueError: If the folder holds no recorded tasks, or no such split.
    """
    families = set(json.loads((folder / "split.json").read_text())[split])
    manifest = json.loads((folder / "manifest.json").read_text())
    chosen = {name: e for name, e in manifest["tasks"].items() if e["family"] in families}
    arrays: dict[str, Arrays] = {}
    for family in {about["family"] for about in chosen.values()}:
        arrays |= read_family(folder / f"{family}.npz", measures)
    return [Entry(name, manifest["grid"] | e, arrays[name]) for name, e in chosen.items()]


def read_family(path: Path, measures: Container[str] | None = None) -> dict[str, Arrays]:
    """The arrays of a family's file by task, of all measures or of some."""
    tasks: dict[str, Arrays] = {}

    def wanted(key: str) -> bool:
        return measures is None or key.rpartition("/")[2] in measures

    for key, array in npz.read(path, wanted).items():
        task, measure = key.split("/")
        tasks.setdefault(task, {})[measure] = array
    return tasks


def _surfaces(entry: Entry) -> dict[str, Recorded]:
    loss, robust = (
        entry.arrays[measure][..., -1].astype(np.float64)
        for measure in ("val_loss", "fgsm_accuracy")
    )
    chance = math.log(entry.about["n_classes"])
    clipped = np.minimum(loss, chance)
    best = clipped.mean(axis=0).min()
    axes = (np.log10(entry.about["learning_rates"]), np.log10(entry.about["batch_sizes"]))
    family = entry.about["family"]
    return {
        "performance": Recorded(family, *axes, (best - clipped) / (chance - best)),
        "robustness": Recorded(family, *axes, robust),
    }
