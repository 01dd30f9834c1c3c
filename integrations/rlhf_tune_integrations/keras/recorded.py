"""Keras' history of a run, with what ours knows besides."""

from __future__ import annotations

from typing import final

import keras

from rlhf_tune.run.history import as_table
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Measurement
from rlhf_tune.tabled import Tabled
from rlhf_tune.tables import Table


@final
class KerasHistory(Tabled, keras.callbacks.History):  # type: ignore[misc]
    """What `fit` returns: Keras' own, which prints as a table of its epochs.

    Attributes:
        discarded: See `rlhf_tune.run.History` for this and the following.
        certificate: By name.
        returned: Not before the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.discarded: list[Stretch] = []
        self.certificate: dict[str, Measurement] = {}
        self.returned: int | None = None

    def table(self) -> Table:
        """A row for each committed epoch."""
        return as_table(self)
