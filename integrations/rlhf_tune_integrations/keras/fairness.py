"""The price of selecting samples, within a training step of a Keras model, on both backends."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.remedy import Batch
from rlhf_tune_integrations.keras.logits import link_of


def mean_price(
    model: keras.Model,
    batch: Batch,
    outputs: Any,
    if_positive: Any,
    if_negative: Any,
    *,
    positive: int,
    kind: str,
) -> Any:
    """The mean price; see `Framework.mean_price`.

    Raises:
        InvalidInputError: If outputs or labels are not those of a classifier.
    """
    if isinstance(outputs, dict | list | tuple) or len(outputs.shape) not in (1, 2):
        raise InvalidInputError(
            f"a price of gaps needs outputs [B, C], but got {getattr(outputs, 'shape', outputs)}"
        )
    scores = ops.cast(outputs, "float32")
    known = kind == "probabilities" or (kind == "auto" and link_of(model) == "probability")
    if len(scores.shape) == 1 or scores.shape[1] == 1:
        scores = ops.reshape(scores, (-1,))
        one = scores if known else ops.sigmoid(scores)
        selected = one if positive == 1 else 1 - one
    else:
        selected = (scores if known else ops.softmax(scores, axis=1))[:, positive]
    prices = ops.where(ops.equal(_labels(batch.y), positive), if_positive, if_negative)
    return ops.mean(selected * ops.cast(prices, "float32"))


def _labels(y: Any) -> Any:
    """The class [B] of each sample, of integers, floats 0 and 1, a column of these, or one-hot."""
    one_hot = len(y.shape) == 2 and y.shape[1] > 1
    return ops.cast(ops.argmax(y, axis=1) if one_hot else ops.reshape(y, (-1,)), "int32")
