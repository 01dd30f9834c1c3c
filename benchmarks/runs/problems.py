"""What is trained in the benchmarks of one run: a network, an optimizer and data in three parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.recorded.data import DataSet, prepare
from benchmarks.recorded.sources import SOURCES
from benchmarks.recorded.tasks import TABLES
from benchmarks.runs.rivals import MoMo, Muon
from rlhf_tune.errors import require
from rlhf_tune.run.schedules import ADAPTIVE, SGD
from rlhf_tune_integrations.pytorch import TorchTrainer

BATCH = 32
STRETCH = 24  # steps between two looks at the validation loss
INITIAL_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MOST_ROWS = 1280  # of what is not trained on: all that most sources have
_VALIDATION_ROWS = 256
_HIDDEN = {"linear": (), "mlp64": (64,), "mlp32x32": (32, 32)}

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
Factory = Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]
Task = tuple[str, str]
"""A data set of `benchmarks.recorded.sources`, and what is trained on it as network-optimizer."""


class Posed(Protocol):
    """What a way to set the learning rate is given; `Problem` says more."""

    @property
    def steps(self) -> int:
        """Gradient steps of a run."""
        ...

    @property
    def stretch(self) -> int:
        """Steps between two looks at the validation loss, by rivals."""
        ...

    @property
    def usual_rate(self) -> float:
        """The framework's default rate."""
        ...

    @property
    def rates(self) -> NDArray[np.float64]:
        """Constant rates, from the smallest to the largest."""
        ...

    def trainer(self, rate: float, seed: int, kind: str = "plain") -> TorchTrainer:
        """A fresh run; equal seeds have equal weights and batches."""
        ...

    def score(self, trainer: TorchTrainer) -> float:
        """On held-out data."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, an optimizer and data in three parts.

    Attributes:
        name: dataset-network-optimizer.
        data: Inputs in [0, 1]; `x_val` is divided into validation and held-out data.
        network: The architecture.
        optimizer: `sgd` (momentum .9) or `adam`.
        scale: What the network's inputs are multiplied by after they were standardised.
        steps: Gradient steps of a run.
        validation_rows: How many of `x_val` are validation data; half if there are fewer of it.
    """

    name: str
    data: DataSet
    network: str
    optimizer: str
    scale: float
    steps: int
    validation_rows: int = _VALIDATION_ROWS

    @property
    def validation(self) -> Rows:
        """By which states are compared, and on which constraints are measured."""
        return self.data.x_val[: self._cut], self.data.y_val[: self._cut]

    @property
    def held_out(self) -> Rows:
        """Seen by nothing but the final score."""
        return self.data.x_val[self._cut :], self.data.y_val[self._cut :]

    @property
    def usual_rate(self) -> float:
        """The framework's default rate."""
        return SGD if self.optimizer == "sgd" else ADAPTIVE

    @property
    def stretch(self) -> int:
        """Steps between two looks at the validation loss, by rivals."""
        return STRETCH

    @property
    def rates(self) -> NDArray[np.float64]:
        """The 11 constant rates, two a decade, of which the best is known in hindsight."""
        ends = (1e-4, 10) if self.optimizer == "sgd" else (1e-5, 1)
        return np.geomspace(*ends, 11)

    def trainer(self, rate: float, seed: int, kind: str = "plain") -> TorchTrainer:
        """A fresh run; equal seeds have equal weights and batches.

        Raises:
            MissingExtraError: If the kind of optimizer needs a package that is not installed.
        """
        torch.manual_seed(seed)
        model = _network(self.network, self.data, self.scale)
        optimizer = _OPTIMIZERS[kind][self.optimizer](model.parameters(), rate)
        if hasattr(optimizer, "eval"):
            _follow_mode(model, optimizer)
        return TorchTrainer(
            model,
            optimizer,
            torch.nn.functional.cross_entropy,
            (self.data.x_train, self.data.y_train),
            self.validation,
            batch_size=BATCH,
            seed=seed,
        )

    def score(self, trainer: TorchTrainer) -> float:
        """Accuracy on held-out data."""
        x, y = self.held_out
        with torch.no_grad():
            guesses = trainer.model.eval()(torch.from_numpy(x)).argmax(dim=1).numpy()
        return float((guesses == y).mean())

    @property
    def _cut(self) -> int:
        return min(self.validation_rows, len(self.data.x_val) // 2)


class Standardise(torch.nn.Module):
    """Shifts and scales inputs in [0, 1] to what the network learns from."""

    shift: torch.Tensor
    factor: torch.Tensor

    def __init__(self, data: DataSet, scale: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.from_numpy(data.shift))
        self.register_buffer("factor", torch.from_numpy(np.float32(scale) / data.scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, d] as the network takes them."""
        return (x - self.shift) * self.factor


def _network(name: str, data: DataSet, scale: float) -> torch.nn.Module:
    first = Standardise(data, scale)
    if name == "cnn":
        assert data.steps is not None
        places = ((data.steps + 1) // 2) ** 2
        return torch.nn.Sequential(
            first,
            torch.nn.Unflatten(1, (1, data.steps, data.steps)),
            torch.nn.Conv2d(1, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * places, data.n_classes),
        )
    widths = (data.x_train.shape[1], *_HIDDEN[name])
    layers = [
        layer
        for width, following in pairwise(widths)
        for layer in (torch.nn.Linear(width, following), torch.nn.ReLU())
    ]
    return torch.nn.Sequential(first, *layers, torch.nn.Linear(widths[-1], data.n_classes))


def _follow_mode(model: torch.nn.Module, optimizer: Any) -> None:
    """Schedule-free optimizers train one point and are evaluated at another: switch with the model.

    A state is kept after it was evaluated, and so at the point that it is to be used at.
    """

    def switch(module: torch.nn.Module, _inputs: Any) -> None:
        if module.training:
            optimizer.train()
        else:
            optimizer.eval()

    model.register_forward_pre_hook(switch)


def _from_package(module: str, name: str, **options: Any) -> Factory:
    """An optimizer of an optional package; `lr` is 1 where it finds the rate itself."""

    def make(parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
        kind = getattr(require(module, extra="benchmarks"), name)
        optimizer: torch.optim.Optimizer = kind(parameters, **{"lr": rate, **options})
        return optimizer

    return make


_PRODIGY = _from_package("prodigyopt", "Prodigy", lr=1.0)
_OPTIMIZERS: dict[str, dict[str, Factory]] = {
    "plain": {
        "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
        "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
    },
    "prodigy": {"adam": _PRODIGY, "sgd": _PRODIGY},
    "d-adapt": {
        "adam": _from_package("dadaptation", "DAdaptAdam", lr=1.0),
        "sgd": _from_package("dadaptation", "DAdaptSGD", lr=1.0, momentum=0.9),
    },
    "schedule-free": {
        "adam": _from_package("schedulefree", "AdamWScheduleFree"),
        "sgd": _from_package("schedulefree", "SGDScheduleFree"),
    },
    "muon": {"adam": Muon, "sgd": Muon},
    "momo": {"adam": MoMo, "sgd": MoMo},
}


def tasks(split: str, *, files: bool, count: int | None = None) -> list[Task]:
    """The tasks of a split whose network and optimizer are built here.

    Args:
        split: "train", "validation" or "test".
        files: Whether data sets that are read from files are among them.
        count: A random subset of so many.
    """
    families = json.loads((TABLES / "split.json").read_text())[split]
    every = [
        (name, recipe)
        for name, source in SOURCES.items()
        if source.family in families and (files or source.file is None)
        for recipe in source.recipes
        if _known(*recipe.split("-"))
    ]
    picked = np.random.default_rng(0).permutation(len(every))[:count]
    return [every[i] for i in sorted(picked)]


def _known(network: str, optimizer: str) -> bool:
    return (network == "cnn" or network in _HIDDEN) and optimizer in ("adam", "sgd")


def problem(
    task: Task,
    *,
    steps: int,
    scale: float = 1.0,
    data_dir: Path | None = None,
    validation_rows: int = _VALIDATION_ROWS,
) -> Problem:
    """A task with its data."""
    source, recipe = task
    network, optimizer = recipe.split("-")
    data = prepare(SOURCES[source], data_dir, most_validation=_MOST_ROWS)
    return Problem(f"{source}-{recipe}", data, network, optimizer, scale, steps, validation_rows)
