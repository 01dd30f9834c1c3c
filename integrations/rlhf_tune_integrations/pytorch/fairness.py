"""The price of selecting samples, within a training step of a torch module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.remedy import Batch
from rlhf_tune_integrations.pytorch.classify import link_of


def mean_price(
    model: torch.nn.Module,
    batch: Batch,
    outputs: Any,
    if_positive: Any,
    if_negative: Any,
    *,
    positive: int,
    kind: str,
) -> Tensor:
    """The mean price; see `Framework.mean_price`.

    Raises:
        InvalidInputError: If outputs or labels are not those of a classifier.
    """
    if not (isinstance(outputs, Tensor) and outputs.ndim in (1, 2)):
        raise InvalidInputError(
            f"a price of gaps needs outputs [B, C], but got "
            f"{tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__}"
        )
    scores = outputs.float()
    if scores.ndim == 1:
        scores = scores[:, None]
    known = kind == "probabilities" or (kind == "auto" and link_of(model) == "probability")
    if scores.shape[1] == 1:
        one = scores[:, 0] if known else scores[:, 0].sigmoid()
        selected = one if positive == 1 else 1 - one
    else:
        selected = (scores if known else scores.softmax(1))[:, positive]
    return (selected * torch.where(_labels(batch.y) == positive, if_positive, if_negative)).mean()


def _labels(y: Tensor) -> Tensor:
    """The class [B] of each sample, of integers, floats 0 and 1, a column of these, or one-hot."""
    if y.ndim == 2:
        return y.argmax(1) if y.shape[1] > 1 else y[:, 0]
    return y
