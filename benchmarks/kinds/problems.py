"""Problems that are trained when they are asked: any setting, the same result each time.

A problem's values are v = (measure - best) / (median - best), where best and median are those of
`N_SETTINGS` random settings (means over training seeds), as recorded in `scales.json`. So 0 is
about the best known setting, 1 the median of the space, and a value below 0 is possible. A measure
is at most what a constant prediction costs; that is also what a run that diverged counts as.

All S seeds are trained side by side, which takes hardly longer than one: small networks wait for
the interpreter.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from torch import Tensor

from benchmarks.kinds.data import Data, family, load, loss
from benchmarks.kinds.networks import Kind as NetworkKind
from benchmarks.kinds.networks import Shape, network
from benchmarks.kinds.spaces import SPACES, start
from benchmarks.kinds.training import Budget, Setting, initial, setting, train
from benchmarks.studies.studies import Unit

Floats = NDArray[np.float64]
Objective = Literal["loss", "accuracy", "f1"]
Constraint = Literal["", "flops", "parameters", "ceiling", "gap", "diverged", "forgotten"]

SEEDS = 3
N_SETTINGS = 300
SCALES = Path(__file__).with_name("scales.json")

_LARGE = 10.0
"""Losses in constraints are at most so many times a constant prediction's."""


class Measured(NamedTuple):
    """What training at one setting gives.

    Attributes:
        measure: [S] the objective, smaller is better, at most a constant prediction's.
        cost: [S] the constrained figure before its bound is taken off; 0 without a constraint.
    """

    measure: Floats
    cost: Floats


@dataclass(frozen=True)
class Spec:
    """What is trained, and what for.

    Attributes:
        kind: The kind of problem.
        dataset: A name of `data.load`.
        space: A name of `SPACES`.
        network: The architecture.
        depth: Its hidden layers; 0 is logistic or linear regression.
        optimizer: Where it is not tuned.
        objective: The measure: a loss, 1 - accuracy or 1 - macro F1.
        constraint: What must not be large; see `_cost`.
        percentile: The bound of a constraint is this percentile over the space.
        flag: Whether a constraint only says 1 or -1.
    """

    kind: str
    dataset: str
    space: str
    network: NetworkKind = "mlp"
    depth: int = 1
    optimizer: str = "adam"
    objective: Objective = "loss"
    constraint: Constraint = ""
    percentile: float = 50.0
    flag: bool = False

    @property
    def name(self) -> str:
        """Names the problem."""
        parts = [self.kind, self.dataset, self.space, self.network, str(self.depth)]
        parts += [self.optimizer, self.objective, self.constraint, "flag" if self.flag else ""]
        return " ".join(part for part in parts if part)

    @property
    def budget(self) -> Budget:
        """Short enough for 20 to 80 ms a trial on one thread."""
        match self.network:
            case "mlp":
                return Budget(steps=160, samples=6144)
            case "rnn":
                return Budget(steps=100, samples=4096)
            case "gru":
                return Budget(steps=48, samples=2048)

    @property
    def pretrained(self) -> bool:
        """Whether training goes on from a network trained on similar data."""
        return self.kind == "fine_tuning"


class Scale(NamedTuple):
    """What is recorded of a problem.

    Attributes:
        best: The smallest mean measure of the random settings, of those feasible.
        median: Their median, feasible or not.
        bound: The largest cost that is allowed.
        feasible: The share of settings that keep it.
        seconds: Processor time of a setting on one thread, the mean, for information.
    """

    best: float
    median: float
    bound: float
    feasible: float
    seconds: float


class Live:
    """A problem that is trained when it is asked: a `Problem`.

    Attributes:
        spec: What is trained.
        kind: The kind.
        name: Names the problem's noise, too.
        family: The underlying data.
        space: The parameters.
        start: The usual values.
        unit: What a sampler is told: the measure itself; of accuracies and F1, maximised.
    """

    def __init__(self, spec: Spec, scale: Scale) -> None:
        """Nothing is trained yet."""
        self.spec, self.scale = spec, scale
        self.kind, self.name, self.family = spec.kind, spec.name, family(spec.dataset)
        self.space: dict[str, BaseDistribution] = dict(SPACES[spec.space])
        self.start: dict[str, Any] = start(self.space)
        width = scale.median - scale.best
        self.unit = Unit(width, scale.best)
        if spec.objective != "loss":
            self.unit = Unit(-width, 1 - scale.best)

    def values(self, params: Mapping[str, Any]) -> Floats:
        """[S] what training with each seed gives."""
        width = self.scale.median - self.scale.best
        return (measured(self.spec, params).measure - self.scale.best) / width

    def costs(self, params: Mapping[str, Any], seed: int | None = None) -> dict[str, float]:
        """The constraints by name, satisfied at <= 0; of one training seed, or their mean.

        A flag is -1 or 1, also of a mean.
        """
        if not self.spec.constraint:
            return {}
        cost = measured(self.spec, params).cost - self.scale.bound
        one = float(cost.mean() if seed is None else cost[seed])
        return {self.spec.constraint: (1.0 if one > 0 else -1.0) if self.spec.flag else one}


def measured(spec: Spec, params: Mapping[str, Any]) -> Measured:
    """What training at a setting gives; settings seen before in this process cost nothing."""
    return _measured(spec, tuple(sorted(params.items())))


def forget() -> None:
    """Train again what was trained before."""
    _measured.cache_clear()


@lru_cache(maxsize=20_000)
def _measured(spec: Spec, params: tuple[tuple[str, Any], ...]) -> Measured:
    data, seed = load(spec.dataset), _seed(spec)
    fixed = {"optimizer": spec.optimizer, "depth": spec.depth}
    given = setting(fixed, dict(params))
    shape = _shape(spec, data, given)
    before = _pretrained(spec) if spec.pretrained else initial(shape, SEEDS, seed)
    after = train(shape, before, given, data, spec.budget, seed)
    with torch.no_grad():
        measure = _measure(spec, shape, after, data)
        cost = _cost(spec, shape, given, before, after, data)
    return Measured(measure, cost)


def _seed(spec: Spec) -> int:
    return zlib.crc32(spec.name.encode())


def _shape(spec: Spec, data: Data, given: Setting) -> Shape:
    width, depth, activation = given.width, given.depth, given.activation
    return Shape(spec.network, data.inputs, data.outputs, width, depth, activation)


@lru_cache(maxsize=16)
def _pretrained(spec: Spec) -> Tensor:
    """[S, P] networks of the usual setting, trained on the data as they were before a change."""
    old, seed = before_change(spec.dataset), _seed(spec) + 1
    given = setting({"depth": spec.depth}, {"learning_rate": 3e-3})
    shape = _shape(spec, old, given)
    return train(shape, initial(shape, SEEDS, seed), given, old, Budget(300, 9600), seed)


@lru_cache(maxsize=16)
def before_change(dataset: str) -> Data:
    """The data that a network was pretrained on: turned a little, and larger."""
    data = load(dataset)
    generator = torch.Generator().manual_seed(zlib.crc32(dataset.encode()))
    skew = torch.randn(data.inputs, data.inputs, generator=generator) / math.sqrt(data.inputs)
    turn = 1.3 * torch.matrix_exp((skew - skew.T) / 4)
    x_train, x_val = data.x_train @ turn, data.x_val @ turn
    return Data(x_train, data.y_train, x_val, data.y_val, data.outputs, data.chance)


def _losses(shape: Shape, parameters: Tensor, x: Tensor, y: Tensor, most: float) -> Floats:
    """[S] mean losses; those that are no numbers, and large ones, count as `most`."""
    each = loss(network(shape).logits(parameters, x[None]), y.expand(len(parameters), -1))
    mean = each.mean(dim=1).double().nan_to_num(most, most, most)
    return np.asarray(mean.clamp(max=most).numpy())


def _measure(spec: Spec, shape: Shape, parameters: Tensor, data: Data) -> Floats:
    """[S] smaller is better; see `Spec.objective`."""
    if spec.objective == "loss":
        return _losses(shape, parameters, data.x_val, data.y_val, data.chance)
    outputs = network(shape).logits(parameters, data.x_val[None])
    guess = error(
        torch.full_like(data.y_val, int(data.y_train.mode().values))[None], spec.objective, data
    )
    wrong = error(outputs.argmax(dim=-1), spec.objective, data)
    sound = outputs.isfinite().flatten(1).all(dim=1).numpy()
    return np.where(sound, np.minimum(wrong, guess), guess)


def error(predicted: Tensor, objective: Objective, data: Data) -> Floats:
    """[S] 1 - accuracy, or 1 - macro F1, of predicted classes [S, m]."""
    if objective == "accuracy":
        return np.asarray((predicted != data.y_val).double().mean(dim=1).numpy())
    classes = torch.arange(data.outputs)[:, None, None]
    said, true = predicted == classes, data.y_val == classes  # [C, S, m], [C, 1, m]
    both = (said & true).sum(dim=-1)
    f1 = 2 * both / (said.sum(dim=-1) + true.sum(dim=-1)).clamp(min=1)
    return np.asarray(1 - f1.double().mean(dim=0).numpy())


def _cost(
    spec: Spec, shape: Shape, given: Setting, before: Tensor, after: Tensor, data: Data
) -> Floats:
    """[S] the figure that is constrained.

    - `flops`: of training: 6 a parameter and sample.
    - `parameters`: of the network.
    - `ceiling`: the loss on validation samples with noise on their inputs.
    - `gap`: the difference of the loss between two groups of validation samples.
    - `diverged`: the loss less that before fine-tuning.
    - `forgotten`: the same on the data of before, where a tenth of a guess's loss is allowed.
    """
    parameters, size = after.shape[1], given.batch_size
    most = _LARGE * data.chance

    def on(x: Tensor, y: Tensor, of: Tensor = after) -> Floats:
        return _losses(shape, of, x, y, most)

    match spec.constraint:
        case "flops":
            return np.full(SEEDS, 6.0 * parameters * size * spec.budget.of(size))
        case "parameters":
            return np.full(SEEDS, float(parameters))
        case "ceiling":
            noise = torch.randn(data.x_val.shape, generator=torch.Generator().manual_seed(0))
            return on(data.x_val + 0.5 * noise, data.y_val)
        case "gap":
            one = data.group
            return np.abs(
                on(data.x_val[one], data.y_val[one]) - on(data.x_val[~one], data.y_val[~one])
            )
        case "diverged":
            return on(data.x_val, data.y_val) - on(data.x_val, data.y_val, before)
        case "forgotten":
            old = before_change(spec.dataset)
            lost = on(old.x_val, old.y_val) - on(old.x_val, old.y_val, before)
            return lost - 0.1 * data.chance
        case _:
            return np.zeros(SEEDS)
