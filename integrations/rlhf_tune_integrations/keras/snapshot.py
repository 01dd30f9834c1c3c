"""A state of a Keras run, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from rlhf_tune_integrations.keras.batches import Place
from rlhf_tune_integrations.keras.streams import Streams


@dataclass(frozen=True)
class KerasSnapshot:
    """A state of the run.

    Attributes:
        logs: Of the last training step, and `KerasTrainer.vectors`.
        values: Of all variables. TensorFlow shares their memory until the variable is written.
        place: In the data.
        steps: What `KerasTrainer.steps` was.
        streams: The random streams that are no variables.
    """

    values: tuple[tuple[keras.Variable, Any], ...]
    place: Place
    steps: tuple[tuple[int, dict[str, Any]], ...]
    streams: Streams
    logs: tuple[dict[str, Any], dict[str, Any]]
