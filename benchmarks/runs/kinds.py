"""Runs of other kinds than the recorded ones: what real networks do and small ones do not.

A kind is some data sets, what is trained on them, and for how long. `kinds.json` says whose split
a family is in: what is test for studies or for recorded runs is test here, too, so digits are.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.recorded.data import DataSet, prepare
from benchmarks.recorded.sources import SOURCES
from benchmarks.runs.kind_networks import NETWORKS
from benchmarks.runs.problems import Rows, Standardise
from rlhf_tune.run.schedules import ADAPTIVE, SGD
from rlhf_tune_integrations.pytorch import TorchTrainer

Split = Literal["validation", "test"]

SPLITS: dict[str, list[str]] = json.loads(Path(__file__).with_name("kinds.json").read_text())
_VALIDATION_ROWS = 256
_MOST_ROWS = 1280
_TRAINING_ROWS = 1024  # of a source, of which a task may have fewer
_PRETRAINING = (400, 3e-3)  # steps of Adam, and their rate
_TURN = 0.45
_FEWER = 5 / 12
_LOOKS = 25  # in a run, by rivals, as often as our default has stretches


@dataclass(frozen=True)
class Spec:
    """What is trained, and for how long.

    Attributes:
        kind: The kind of run.
        source: A data set of `benchmarks.recorded.sources`.
        network: A name of `NETWORKS`.
        optimizer: `sgd` (momentum .9) or `adam`.
        rows: Training rows.
        batch: Rows of a batch.
        epochs: Of a run.
        pretrained: Whether the network comes from data that are turned a little.
    """

    kind: str
    source: str
    network: str
    optimizer: str = "adam"
    rows: int = 512
    batch: int = 32
    epochs: int = 20
    pretrained: bool = False

    @property
    def name(self) -> str:
        """Names the task."""
        sizes = f"{self.rows}/{self.batch}x{self.epochs}"
        return f"{self.kind} {self.source}-{self.network}-{self.optimizer} {sizes}"

    @property
    def family(self) -> str:
        """Of the data."""
        return SOURCES[self.source].family


@dataclass(frozen=True, eq=False)
class KindProblem:
    """A task of a kind, with its data: a `Posed`."""

    spec: Spec
    data: DataSet

    def fewer(self) -> KindProblem:
        """The same with 5 of every 12 epochs, at least one."""
        epochs = max(1, round(self.spec.epochs * _FEWER))
        return replace(self, spec=replace(self.spec, epochs=epochs))

    @property
    def steps(self) -> int:
        """Gradient steps of a run."""
        return self.spec.epochs * -(-len(self.data.y_train) // self.spec.batch)

    @property
    def stretch(self) -> int:
        """Steps between two looks at the validation loss."""
        return max(1, self.steps // _LOOKS)

    @property
    def usual_rate(self) -> float:
        """The framework's default rate."""
        return SGD if self.spec.optimizer == "sgd" else ADAPTIVE

    @property
    def rates(self) -> NDArray[np.float64]:
        """Five constant rates, two a decade about the default, of which the best is taken."""
        return self.usual_rate * np.geomspace(0.1, 10, 5)

    @property
    def validation(self) -> Rows:
        """By which states are compared."""
        return self.data.x_val[: self._cut], self.data.y_val[: self._cut]

    def trainer(self, rate: float, seed: int, kind: str = "plain") -> TorchTrainer:
        """A fresh run; equal seeds have equal weights and batches."""
        torch.manual_seed(seed)
        model = _network(self.spec, self.data)
        if self.spec.pretrained:
            model.load_state_dict(_pretrained(self.spec))
        return _trainer(self.spec, model, self.data, self.validation, rate, seed)

    def score(self, trainer: TorchTrainer) -> float:
        """Loss on held-out rows."""
        return self.scores(trainer)[0]

    @torch.no_grad()
    def scores(self, trainer: TorchTrainer) -> tuple[float, float]:
        """Loss and accuracy on held-out rows, which nothing else sees."""
        x, y = (torch.from_numpy(part[self._cut :]) for part in (self.data.x_val, self.data.y_val))
        outputs = trainer.model.eval()(x)
        loss = torch.nn.functional.cross_entropy(outputs, y)
        return float(loss), float((outputs.argmax(dim=1) == y).float().mean())

    @property
    def _cut(self) -> int:
        return min(_VALIDATION_ROWS, len(self.data.x_val) // 2)


def _network(spec: Spec, data: DataSet) -> torch.nn.Module:
    return torch.nn.Sequential(Standardise(data, 1.0), NETWORKS[spec.network](data))


def _trainer(
    spec: Spec, model: torch.nn.Module, data: DataSet, validation: Rows, rate: float, seed: int
) -> TorchTrainer:
    if spec.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(model.parameters(), rate)
    return TorchTrainer(
        model,
        optimizer,
        torch.nn.functional.cross_entropy,
        (data.x_train, data.y_train),
        validation,
        batch_size=spec.batch,
        seed=seed,
    )


@lru_cache(maxsize=64)
def _pretrained(spec: Spec) -> dict[str, torch.Tensor]:
    """The network after training on all rows as they were before a change."""
    data = _before(_whole(spec, None))
    steps, rate = _PRETRAINING
    torch.manual_seed(zlib.crc32(spec.source.encode()))
    model = _network(spec, data)
    source = replace(spec, optimizer="adam", batch=32)
    _trainer(source, model, data, (data.x_val, data.y_val), rate, 0).train(steps)
    return {name: value.clone() for name, value in model.state_dict().items()}


def _before(data: DataSet) -> DataSet:
    """The inputs turned by a random rotation near the identity, the same at every call."""
    d = data.x_train.shape[1]
    skew = np.random.default_rng(d).normal(size=(d, d)) / np.sqrt(d)
    turn = torch.matrix_exp(torch.from_numpy(_TURN * (skew - skew.T))).numpy().astype(np.float32)
    parts = ((x - data.shift) @ turn + data.shift for x in (data.x_train, data.x_val))
    x_train, x_val = parts
    return replace(data, x_train=x_train, x_val=x_val)


@lru_cache(maxsize=8)
def problem(spec: Spec, data_dir: Path | None = None) -> KindProblem:
    """A task with its data."""
    data = _whole(spec, data_dir)
    rows = slice(spec.rows)
    return KindProblem(spec, replace(data, x_train=data.x_train[rows], y_train=data.y_train[rows]))


def _whole(spec: Spec, data_dir: Path | None) -> DataSet:
    """All that a source has to train on; nothing of what is held out."""
    source = replace(SOURCES[spec.source], n_train=_TRAINING_ROWS)
    return prepare(source, data_dir, most_validation=_MOST_ROWS)


def _kind(kind: str, *tasks: tuple[str, str, str], **options: int | bool) -> list[Spec]:
    return [
        Spec(kind, source, network, optimizer, **options)  # type: ignore[arg-type]
        for source, network, optimizer in tasks
    ]


def _batchnorm() -> list[Spec]:
    few, more = {"rows": 256, "epochs": 8}, {"rows": 512, "epochs": 10}
    long = {"rows": 1024, "epochs": 20}
    return [
        *_kind(
            "batchnorm",
            ("gratings", "resnet8", "adam"),
            ("shapes", "resnet8", "sgd"),
            ("textures", "resnet8", "adam"),
            ("bars", "normed_cnn", "adam"),
            ("digits_even", "resnet8", "sgd"),
            **few,
        ),
        *_kind(
            "batchnorm",
            ("glyphs_many", "resnet8", "adam"),
            ("glyphs_many", "normed_cnn", "sgd"),
            ("shapes", "normed_cnn", "adam"),
            ("digits", "resnet8", "adam"),
            ("digits", "normed_cnn", "sgd"),
            ("mnist", "resnet8", "adam"),
            ("mnist", "normed_cnn", "sgd"),
            **more,
        ),
        *_kind(
            "batchnorm",
            ("glyphs_many", "resnet8", "adam"),
            ("digits", "resnet8", "adam"),
            ("mnist", "resnet8", "sgd"),
            **long,
        ),
    ]


def _tables(kind: str, network: str, **options: int | bool) -> list[Spec]:
    return _kind(
        kind,
        ("tree", network, "adam"),
        ("missing_wide", network, "sgd"),
        ("classification_noisy", network, "adam"),
        ("motif", network, "sgd"),
        ("digits", network, "adam"),
        ("diabetes", network, "sgd"),
        ("hastie", network, "adam"),
        **options,
    )


def _small_batch() -> list[Spec]:
    long, tiny = {"rows": 1024, "epochs": 20}, {"rows": 512, "batch": 8, "epochs": 12}
    easy = (
        ("wine", "mlp", "adam"),
        ("tree", "mlp", "sgd"),
        ("logit", "mlp", "adam"),
        ("breast_cancer", "mlp", "adam"),
        ("diabetes", "mlp", "sgd"),
    )
    noisy = (
        ("classification_noisy", "mlp", "adam"),
        ("missing", "mlp", "sgd"),
        ("digits", "mlp", "sgd"),
    )
    return [
        *_kind("small_batch", *easy, **long),
        *_kind("small_batch", *noisy, **tiny),
        *_kind("small_batch", noisy[0], noisy[2], **{**long, "batch": 256, "epochs": 60}),
    ]


def _fine_tuning() -> list[Spec]:
    few, some = {"rows": 100, "epochs": 20}, {"rows": 250, "epochs": 12}
    first = (
        ("tree", "deep_mlp", "adam"),
        ("motif", "mlp", "sgd"),
        ("shapes", "normed_cnn", "adam"),
        ("digits", "normed_cnn", "adam"),
        ("breast_cancer", "mlp", "sgd"),
    )
    second = (
        ("classification_many", "deep_mlp", "adam"),
        ("trends", "transformer", "adam"),
        ("majority", "transformer", "adam"),
        ("markov", "gru", "adam"),
        ("trends", "gru", "sgd"),
        ("hastie", "mlp", "adam"),
        ("walks", "transformer", "adam"),
    )
    return [
        *_kind("fine_tuning", *first, pretrained=True, **few),
        *_kind("fine_tuning", *second, pretrained=True, **some),
        *_kind("fine_tuning", second[0], first[3], pretrained=True, rows=500, epochs=3),
    ]


def _recurrent() -> list[Spec]:
    return _kind(
        "recurrent",
        ("trends", "gru", "adam"),
        ("majority", "lstm", "adam"),
        ("motif_steps", "gru", "sgd"),
        ("adding", "lstm", "adam"),
        ("brackets", "gru", "adam"),
        ("chirps", "lstm", "adam"),
        ("walks", "gru", "sgd"),
    )


def _transformers() -> list[Spec]:
    return _kind(
        "transformer",
        ("trends", "transformer", "adam"),
        ("majority", "transformer", "adam"),
        ("motif_steps", "transformer", "adam"),
        ("markov", "transformer", "adam"),
        ("brackets", "transformer", "adam"),
        ("chirps", "transformer", "adam"),
        ("walks", "transformer", "adam"),
        epochs=15,
    )


def _early() -> list[Spec]:
    first = (
        ("wine", "mlp", "adam"),
        ("gratings", "normed_cnn", "adam"),
        ("digits", "mlp", "adam"),
    )
    second = (("tree", "mlp", "sgd"), ("shapes", "normed_cnn", "adam"), ("hastie", "mlp", "adam"))
    return [
        *_kind("early", *first, rows=100, epochs=3),
        *_kind("early", *second, rows=100, epochs=1),
        *_kind("early", *first, *second, rows=512, epochs=2),
    ]


@lru_cache(maxsize=1)
def specs() -> dict[str, list[Spec]]:
    """Every task of every kind."""
    return {
        "batchnorm": _batchnorm(),
        "dropout": _tables("dropout", "dropout_mlp"),
        "small_batch": _small_batch(),
        "fine_tuning": _fine_tuning(),
        "recurrent": _recurrent(),
        "transformer": _transformers(),
        "early": _early(),
    }


KINDS = tuple(specs())


def tasks(kind: str, split: Split, *, files: bool) -> list[Spec]:
    """The tasks of a kind whose data are in a split.

    Args:
        kind: One of `KINDS`.
        split: Which.
        files: Whether data sets that are read from files are among them.
    """
    return [
        spec
        for spec in specs()[kind]
        if spec.family in SPLITS[split] and (files or SOURCES[spec.source].file is None)
    ]
