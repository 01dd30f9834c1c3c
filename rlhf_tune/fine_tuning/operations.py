"""What can be done with a group of layers, and a trainer that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.groups import GroupsLike, Layers, divide, layers_of
from rlhf_tune.run.stretch import Move
from rlhf_tune.run.trainer import Metrics, Trainer


@dataclass(frozen=True)
class Operation:
    """One way to treat a group.

    Attributes:
        name: What it is called.
        rate: While the group is trained, the learning rate is multiplied by this; None where
            nothing is trained.
        change: What is done to the group in place of training: a function of the `GroupTrainer`
            and the names of the group's units.
        stops: Whether fine-tuning ends.
        bonus: Added to the reward, such as the value of a smaller model.
    """

    name: str
    rate: float | None = None
    change: Callable[[GroupTrainer, Sequence[str]], object] | None = None
    stops: bool = False
    bonus: float = 0.0

    @property
    def acts(self) -> bool:
        """Whether it may change the model."""
        return self.rate is not None or self.change is not None


SLOWLY = 0.2  # of the rate; chosen on source tasks
OPERATIONS = (
    Operation("skip"),
    Operation("tune", rate=1.0),
    Operation("tune slowly", rate=SLOWLY),
    Operation("stop", stops=True),
)
"""Those of every group; the first does nothing."""

RETURN = Operation("return", change=lambda trainer, _: trainer.begin_anew())
"""Goes back to the model as it was handed over; what was learned on the way is remembered."""

FACTORS = (1.0, 10**-0.5, 10**0.5)
"""Of the learning rate, between which the search chooses: half a decade down and up."""

RATED = (
    Operation("skip"),
    *(Operation("tune" if f == 1 else f"tune at {f:.2g} x rate", rate=f) for f in FACTORS),
)
"""Those of the search."""


@final
class GroupTrainer:
    """A `Trainer` that changes one group at a time: hyperparameters "group" and "operation".

    What is frozen keeps weights, statistics and moments of the optimizer. All else is that of the
    trainer inside, its optional names included.

    Attributes:
        layers: Of the model.
        groups: Names of units by group.
        sizes: Trainable weights of each group.
    """

    def __init__(
        self,
        trainer: Trainer[Any],
        groups: GroupsLike = "auto",
        operations: Sequence[Operation] = OPERATIONS,
        *,
        layers: Layers | None = None,
    ) -> None:
        """Divide the layers; the state of the trainer now is where `RETURN` leads.

        Args:
            trainer: What is driven.
            groups: See `rlhf_tune.fine_tuning.groups.divide`.
            operations: By their numbers.
            layers: Of its model; found by its framework where not given.

        Raises:
            InvalidInputError: If groups or operations break their rules.
            UnsupportedModelError: If the model has no layers that can be trained.
        """
        self._trainer, self._more = trainer, cast(Any, trainer)  # more than a `Trainer` must have
        self._operations = tuple(operations)
        _check_operations(self._operations)
        self.layers = layers or layers_of(trainer.model)
        units = self.layers.units
        self.groups = divide(units, groups)
        by_name = {unit.name: unit.trainable for unit in units}
        self.sizes = {g: sum(by_name[unit] for unit in held) for g, held in self.groups.items()}
        self.trainable = sum(by_name.values())
        self._names = tuple(self.groups)
        self._now = {"group": 0, "operation": 0}
        self._rate = trainer.hyperparameters["learning_rate"]
        self._start = trainer.snapshot()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_trainer":
            raise AttributeError(name)
        return getattr(self._trainer, name)

    def move(self, group: int, operation: int) -> Move:
        """What makes the next stretch an operation on a group."""
        what, where = self._operations[operation], self._names[group]
        rate = self._rate * (1.0 if what.rate is None else what.rate)
        return Move(
            f"{what.name} {where}",
            {"group": group, "operation": operation, "learning_rate": rate},
        )

    def gradients(self) -> Mapping[str, float]:
        """Norms of the gradient of the training loss by unit; empty where they are not known."""
        return self.layers.gradients(self._trainer)

    def begin_anew(self) -> None:
        """Go back to where the trainer was taken over."""
        self._trainer.restore(self._start)

    @property
    def model(self) -> Any:
        """What is trained."""
        return self._trainer.model

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """Those of the trainer, and the numbers of the group and the operation."""
        return {**self._trainer.hyperparameters, **self._now}

    @property
    def steps_per_epoch(self) -> int:
        """Of the trainer."""
        return self._trainer.steps_per_epoch

    def train(self, steps: int) -> Metrics:
        """Train the group, or change it in the operation's own way, which takes no steps."""
        names = self.groups[self._names[self._now["group"]]]
        operation = self._operations[self._now["operation"]]
        if operation.change is not None:
            operation.change(self, names)
            return {"steps": 0}
        with self.layers.only(names):
            return self._trainer.train(steps)

    def evaluate(self) -> Metrics:
        """Of the trainer."""
        return self._trainer.evaluate()

    def refresh(self) -> bool:
        """Make the statistics of the group anew; see `rlhf_tune.run.guarded.GuardedRun`."""
        fresh = getattr(self._trainer, "refresh", None)
        if fresh is None:
            return False
        with self.layers.only(self.groups[self._names[self._now["group"]]]):
            return bool(fresh())

    def set(self, **hyperparameters: float) -> None:
        """Choose a group and an operation by number, and set what the trainer sets."""
        own = {key: hyperparameters.pop(key) for key in [*self._now] if key in hyperparameters}
        sizes = {"group": len(self._names), "operation": len(self._operations)}
        for key, value in own.items():
            if not (float(value).is_integer() and 0 <= value < sizes[key]):
                raise InvalidInputError(
                    f"`{key}` must be a whole number below {sizes[key]}, but got {value}"
                )
        if hyperparameters:
            self._trainer.set(**hyperparameters)
        self._now |= {key: int(value) for key, value in own.items()}

    def snapshot(self, into: Any = None) -> Any:
        """Of the trainer, and which group and operation were in hand."""
        inner = self._trainer.snapshot() if into is None else self._trainer.snapshot(into[0])
        return inner, dict(self._now)

    def restore(self, snapshot: Any) -> None:
        """Go back."""
        self._trainer.restore(snapshot[0])
        self._now = dict(snapshot[1])

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same where a snapshot is taken up; see `Trainer`."""
        groups = {name: list(held) for name, held in self.groups.items()}
        return {**self._more.identity, "groups": groups}

    def saved(self, snapshot: Any) -> dict[str, Any]:
        """A snapshot as plain values; see `Trainer`."""
        return {"inside": self._more.saved(snapshot[0]), "now": dict(snapshot[1])}

    def loaded(self, values: Mapping[str, Any]) -> Any:
        """A snapshot from plain values; see `Trainer`."""
        return self._more.loaded(values["inside"]), dict(values["now"])


def _check_operations(operations: Sequence[Operation]) -> None:
    names = [operation.name for operation in operations]
    if not operations or operations[0].acts or operations[0].stops:
        raise InvalidInputError(
            f"the first operation must do nothing, as `OPERATIONS` begins, but got {names[:1]}"
        )
    if len({*names}) < len(names):
        raise InvalidInputError(f"operations must have different names, but got {names}")
    for each in operations:
        if sum((each.rate is not None, each.change is not None, each.stops)) > 1:
            raise InvalidInputError(
                f"an operation must either train at a `rate`, `change` the group or stop, but "
                f"{each.name!r} does several"
            )
        if each.rate is not None and not each.rate > 0:
            raise InvalidInputError(f"`rate` must be above 0, but {each.name!r} has {each.rate}")
