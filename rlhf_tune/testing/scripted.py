"""A training run that is a formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.trainer import Metrics


@dataclass
class ScriptedModel:
    """What a `ScriptedTrainer` trains.

    Attributes:
        excess: Expected squared distance to the optimum; 0 is perfect.
        steps: Optimizer steps taken.
        learning_rate: Of the last step, 0 before the first; something to put a constraint on.
    """

    excess: float
    steps: int = 0
    learning_rate: float = 0.0


class ScriptedTrainer:
    """Stochastic gradient descent on a noisy quadratic, in expectation: a few flops a step.

    With curvature h, gradient noise c, learning rate a and batch size b, one step is

        excess <- (1 - a h)^2 excess + a^2 c / b

    so too large a rate diverges, a constant one ends on a floor that falls with a / b, and the
    best policy is known: `best_rate`. Loss and validation loss are h excess / 2. Source: Zhang et
    al. (2019), arXiv:1907.04164, section 3.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 0.01,
        batch_size: int = 32,
        samples: int = 320,
        curvature: float = 1.0,
        noise: float = 1.0,
        excess: float = 2.0,
    ) -> None:
        self.model = ScriptedModel(excess)
        self._samples, self._curvature, self._noise = samples, curvature, noise
        self._now = {"learning_rate": learning_rate, "batch_size": batch_size}

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The learning rate and the batch size in effect."""
        return dict(self._now)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch."""
        return math.ceil(self._samples / self._now["batch_size"])

    @property
    def best_rate(self) -> float:
        """The learning rate that makes the next step's excess, and so the last one's, smallest."""
        h, excess = self._curvature, self.model.excess
        return h * excess / (h**2 * excess + self._noise / self._now["batch_size"])

    def train(self, steps: int) -> Metrics:
        """Take steps; see `Trainer.train`."""
        losses = [0.0]
        while len(losses) <= steps and math.isfinite(losses[-1]):
            losses.append(self._loss())
            self._step(self._now["learning_rate"])
        del losses[0]
        return {"steps": len(losses), "loss": float(np.mean(losses))}

    def evaluate(self) -> Metrics:
        """The validation loss."""
        return {"val_loss": self._loss()}

    def set(self, **hyperparameters: float) -> None:
        """Change the learning rate or the batch size.

        Raises:
            InvalidInputError: If a name is unknown or a value is not allowed.
        """
        for name, value in hyperparameters.items():
            whole = name != "batch_size" or float(value).is_integer()
            if name not in self._now or not 0 < value < math.inf or not whole:
                raise InvalidInputError(
                    f"learning_rate > 0 and a whole batch_size >= 1 can be set, "
                    f"but got {name}={value}"
                )
        self._now |= hyperparameters

    def snapshot(
        self, into: tuple[ScriptedModel, dict[str, float]] | None = None
    ) -> tuple[ScriptedModel, dict[str, float]]:
        """The state."""
        return replace(self.model), dict(self._now)

    def restore(self, snapshot: tuple[ScriptedModel, dict[str, float]]) -> None:
        """Go back to a state; the model stays the same object."""
        model, now = snapshot
        vars(self.model).update(vars(model))
        self._now = dict(now)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a snapshot is of; see `Trainer`."""
        return {"samples": self._samples, "curvature": self._curvature, "noise": self._noise}

    def saved(self, snapshot: tuple[ScriptedModel, dict[str, float]]) -> dict[str, Any]:
        """A snapshot as plain values."""
        return {"model": asdict(snapshot[0]), "now": dict(snapshot[1])}

    def loaded(self, values: Mapping[str, Any]) -> tuple[ScriptedModel, dict[str, float]]:
        """A snapshot from plain values."""
        return ScriptedModel(**values["model"]), dict(values["now"])

    def _loss(self) -> float:
        return self._curvature * self.model.excess / 2

    def _step(self, rate: float) -> None:
        model, size = self.model, self._now["batch_size"]
        # As a float64 of NumPy an overflow is inf, where Python raises.
        shrink = np.square(1 - rate * self._curvature)
        with np.errstate(over="ignore", invalid="ignore"):
            model.excess = float(shrink * model.excess + rate**2 * self._noise / size)
        model.steps += 1
        model.learning_rate = rate
