"""What a run does, into TensorBoard or MLflow: metrics, rates, moves, rollbacks and constraints.

Each function gives one that is told of committed epochs, for PyTorch ``fit(..., on_epoch=log)``,
for Keras ``callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=log)]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rlhf_tune.errors import require
from rlhf_tune.run.history import Epoch

Log = Callable[..., None]
"""Told of an `Epoch`; or of an epoch's number and logs, as Keras tells its callbacks."""

_NO_MLFLOW_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)


def to_tensorboard(writer: Any) -> Log:
    """A log that writes scalars, and the moves as text.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``, or another with its ``add_scalar`` and
            ``add_text``; it stays open.
    """

    def log(epoch: Epoch | int, logs: Mapping[str, Any] | None = None) -> None:
        number, values = _read(epoch, logs)
        for name, value in _numbers(values):
            writer.add_scalar(name, value, number)
        if "move" in values:
            writer.add_text("move", f"`{values['move']}`", number)

    return log


def to_mlflow(client: Any = None, run_id: str | None = None) -> Log:
    """A log that writes metrics of an MLflow run.

    MLflow takes finite numbers alone: others are left out, an untrusted measurement's cost too,
    of which `<name>/trusted` is then 0. A move is a metric `move/<name>` of 1 at its epoch.

    Args:
        client: A module or client with ``log_metric``; by default ``mlflow`` itself, and so the
            run that is active.
        run_id: Of the run, where `client` is an ``MlflowClient``.

    Raises:
        MissingExtraError: If MLflow is needed and not installed.
    """
    to = require("mlflow", extra="mlflow") if client is None else client
    about = () if run_id is None else (run_id,)

    def log(epoch: Epoch | int, logs: Mapping[str, Any] | None = None) -> None:
        number, values = _read(epoch, logs)
        moved = {f"move/{values['move']}": 1.0} if "move" in values else {}
        for name, value in _numbers({**values, **moved}):
            if math.isfinite(value):
                to.log_metric(*about, _NO_MLFLOW_NAME.sub("_", name), value, step=number)

    return log


def _read(epoch: Epoch | int, logs: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
    """Number and values of an epoch; of each measured constraint its cost too."""
    if not isinstance(epoch, Epoch):
        return epoch, dict(logs or {})
    costs = {f"{name}/cost": m.cost for name, m in epoch.measurements.items()}
    trusted = {f"{name}/trusted": float(m.trusted) for name, m in epoch.measurements.items()}
    return epoch.number, {**epoch.logs, **costs, **trusted}


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if np.ndim(value) == 0 and not isinstance(value, str):
            yield name, float(value)
