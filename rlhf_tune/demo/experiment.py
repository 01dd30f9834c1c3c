"""One setting of the job: a network trained by it, and what that is worth."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.demo.data import Data, load
from rlhf_tune.demo.settings import Settings
from rlhf_tune.safety import Measurement, RobustAccuracy

LEARNING_RATES = (1e-5, 1e-1)
BATCH_SIZES = (16, 256)


class Network(Protocol):
    """A module that trains one framework's network: `keras_cnn` or `torch_cnn`."""

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Any:
        """A network from images [B, *shape] to logits [B, classes]."""

    def train(
        self,
        model: Any,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        *,
        learning_rate: float,
        batch_size: int,
        epochs: int,
        seed: int,
        on_epoch: Callable[[int], None],
    ) -> None:
        """Train in place; `on_epoch` gets the number of epochs done."""

    def logits(self, model: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits [N, classes] of images [N, H, W, C]."""

    def save(self, model: Any, path: Path) -> None:
        """Write the trained model."""


@dataclass(frozen=True)
class Experiment:
    """What a trial needs, but for its setting."""

    settings: Settings
    data: Data
    network: Network
    constraint: RobustAccuracy

    @classmethod
    def of(cls, settings: Settings) -> Experiment:
        """The experiment that the settings ask for.

        Raises:
            InvalidInputError: If the data break a rule.
            MissingExtraError: If a package is not installed.
        """
        data = load(settings.data, max_train=settings.max_train)
        constraint = RobustAccuracy(
            data.x_validation,
            data.y_validation,
            eps=settings.eps,
            at_least=settings.min_robust_accuracy,
            name="robust_accuracy",
        )
        network = importlib.import_module(f"rlhf_tune.demo.{settings.framework}_cnn")
        return cls(settings, data, cast(Network, network), constraint)

    def measure(
        self, params: Mapping[str, Any], number: int, on_epoch: Callable[[int], None]
    ) -> tuple[float, Measurement | None]:
        """The validation loss after training, and its robustness; NaN and None if it diverged.

        The loss and not the accuracy, which on a few hundred images takes a few dozen values and
        is the same for many settings. At most that of guessing, so that one setting that blew up
        does not hide the differences between the others.
        """
        model = self.train(params, number, on_epoch)
        loss = self.loss(model, self.data.x_validation, self.data.y_validation)
        if math.isnan(loss):
            return loss, None
        return min(loss, math.log(self.data.classes)), self.constraint(model)

    def train(self, params: Mapping[str, Any], number: int, on_epoch: Callable[[int], None]) -> Any:
        """A network trained by the random stream of trial `number`."""
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        model = self.network.build(self.data.shape, self.data.classes, seed)
        self.network.train(
            model,
            self.data.x_train,
            self.data.y_train,
            learning_rate=params["learning_rate"],
            batch_size=params["batch_size"],
            epochs=self.settings.epochs,
            seed=seed,
            on_epoch=on_epoch,
        )
        return model

    def loss(self, model: Any, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        """Mean cross-entropy in nats."""
        logits = self.network.logits(model, x)
        logits = logits - logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(y)), y]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - own))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: on networks this small others wait more than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
