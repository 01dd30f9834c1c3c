"""Reads a folder of recorded tasks (`benchmarks/tables` of the source tree)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.priors import Recorded


def read_tables(folder: Path, split: str = "train") -> dict[str, list[Recorded]]:
    """The tasks of one split, by measure: "performance" and "robustness".

    Performance is the final validation loss, where 0 is the best cell and -1 a uniform guess;
    robustness the final FGSM accuracy.

    Raises:
        InvalidInputError: If the folder holds no recorded tasks.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        families = set(json.loads((folder / "split.json").read_text())[split])
        entries = {k: e for k, e in manifest["tasks"].items() if e["family"] in families}
        tasks = [
            _task(folder / f"{k}.npz", entry, manifest["grid"]) for k, entry in entries.items()
        ]
    except (OSError, KeyError, ValueError) as exc:
        raise InvalidInputError(
            f"`--tables` must be a folder that `python -m benchmarks.record` wrote, but {folder} "
            f"is not ({exc})"
        ) from exc
    return {measure: [task[measure] for task in tasks] for measure in ("performance", "robustness")}


def _task(path: Path, entry: dict[str, Any], grid: dict[str, Any]) -> dict[str, Recorded]:
    with np.load(path, allow_pickle=False) as tables:
        loss = tables["val_loss"][..., -1].astype(np.float64)
        robust = tables["fgsm_accuracy"][..., -1].astype(np.float64)
    chance = math.log(entry["n_classes"])
    clipped = np.minimum(loss, chance)
    best = clipped.mean(axis=0).min()
    axes = (np.log10(grid["learning_rates"]), np.log10(grid["batch_sizes"]))
    return {
        "performance": Recorded(entry["family"], *axes, (best - clipped) / (chance - best)),
        "robustness": Recorded(entry["family"], *axes, robust),
    }
