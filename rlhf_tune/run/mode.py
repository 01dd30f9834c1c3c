"""Whether less or more of a metric is better."""

from __future__ import annotations

import re
from typing import Literal, get_args

from rlhf_tune.errors import InvalidInputError

Mode = Literal["min", "max"]
ModeName = Literal["auto", "min", "max"]

# Words of the names of metrics whose direction nobody disputes.
_FALLING = {"loss", "error", "err", "mse", "mae", "rmse", "mape", "nll", "perplexity", "wer", "cer"}
_RISING = {"acc", "accuracy", "auc", "auroc", "precision", "recall", "f1", "dice", "iou"}
_RISING |= {"jaccard", "r2", "bleu"}


def mode_of(monitor: str, mode: ModeName) -> Mode:
    """Whether less or more of a metric is better; "auto" goes by the words of its name.

    Raises:
        InvalidInputError: If the mode is none, or "auto" does not know the metric.
    """
    if mode not in get_args(ModeName):
        raise InvalidInputError(f"`mode` must be one of {get_args(ModeName)}, but got {mode!r}")
    if mode != "auto":
        return mode
    words = _words(monitor)
    falls, rises = bool(words & _FALLING), bool(words & _RISING)
    if falls == rises:
        raise InvalidInputError(
            f"`mode` must be 'min' or 'max' where the name does not tell which is better, "
            f"but got 'auto' for {monitor!r}"
        )
    return "min" if falls else "max"


def _words(name: str) -> set[str]:
    """Of a name in snake case or camel case, such as "val_acc" or "val_BinaryF1Score"."""
    parts = re.split(r"[\W_]+", name)
    inner = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+", name)
    return {word.lower() for word in (*parts, *inner)}
