"""A constitution: rules in TOML that no preference can outvote.

    [outcomes.accuracy]           # of the outcomes of a trial
    at_least = 0.85

    [outcomes.seconds]
    at_most = 60

    [gate]                        # of its model: the keys of a gate's spec
    data = "holdout.npz"
    eps = 0.05
    min_robust_accuracy = 0.6

Each rule is a constraint of the study: what violates one is never recommended, and what is likely
to violate one is not tried.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import spec

if TYPE_CHECKING:
    from rlhf_tune.safety.measurement import Constraint

_BOUNDS = {"at_least": 1.0, "at_most": -1.0}
_ELSEWHERE = {"baseline", "baseline_factory", "members", "member_labels", *spec.OUTPUTS}


@dataclass(frozen=True)
class Rule:
    """A bound of an outcome.

    Attributes:
        name: Of the outcome.
        sign: 1 for a floor, -1 for a ceiling.
        bound: What it must keep.
    """

    name: str
    sign: float
    bound: float

    def cost(self, outcomes: Mapping[str, float]) -> float:
        """By how much it is broken; at most 0 where it is kept, inf where nothing is known."""
        value = outcomes.get(self.name, math.nan)
        return math.inf if math.isnan(value) else self.sign * (self.bound - value)


@dataclass(frozen=True)
class Constitution:
    """Rules on outcomes, and on models.

    Attributes:
        rules: On outcomes.
        release: What models must satisfy; None where only outcomes are ruled.
    """

    rules: tuple[Rule, ...]
    release: spec.Spec | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The constitution of a TOML file; its paths are relative to its folder.

        Raises:
            InvalidInputError: If the file cannot be read, or a rule is none.
        """
        path = Path(path)
        table = spec.read_toml(path)
        if not table or not table.keys() <= {"outcomes", "gate"}:
            raise InvalidInputError(
                f"the constitution {path.name!r} must have the tables 'outcomes', 'gate' or both, "
                f"but has {sorted(table)}"
            )
        outcomes, gate = table.get("outcomes", {}), table.get("gate")
        if not all(isinstance(part, Mapping) for part in (outcomes, gate or {})):
            raise InvalidInputError(f"'outcomes' and 'gate' of {path.name!r} must be tables")
        rules = tuple(_rule(name, given) for name, given in outcomes.items())
        if gate is None:
            return cls(rules)
        misplaced = sorted(_ELSEWHERE & gate.keys())
        if misplaced:
            raise InvalidInputError(
                f"[gate] of {path.name!r} holds rules for any model, but got {misplaced}; keep "
                "these in the spec of the release"
            )
        return cls(rules, spec.of_values(spec.of_table(gate, path)))

    def costs(self, outcomes: Mapping[str, float], model: Any = None) -> dict[str, float]:
        """The cost of every rule by name, for ``trial.set_constraint``.

        Args:
            outcomes: Of a trial.
            model: Its model, in memory or the path of its file.

        Raises:
            InvalidInputError: If models are ruled, and none is given.
        """
        found = {f"rule {rule.name}": rule.cost(outcomes) for rule in self.rules}
        if self.release is None:
            return found
        if model is None:
            raise InvalidInputError(
                "the constitution rules models, but got none; hand over `model`, or take [gate] out"
            )
        from rlhf_tune.gate.decision import check

        report = check(model, self._constraints, factory=self.release.factory)
        return found | {m.name: m.cost for m in report.measurements}

    @cached_property
    def _constraints(self) -> list[Constraint]:
        """What models must satisfy; the data is read once."""
        from rlhf_tune.gate import npz, requirements

        asked = self.release
        assert asked is not None  # noqa: S101 - `costs` asks
        arrays = [name for row in requirements.asked(asked) for name in row.arrays]
        samples = npz.load(
            asked.data,
            asked.labels,
            bounds=asked.bounds,
            groups=asked.groups,
            arrays=arrays,
            at_most=asked.max_samples,
            seed=asked.seed,
        )
        requirements.check_counts(asked, samples)
        return requirements.of_evidence(requirements.Evidence(asked, samples))


def _rule(name: str, given: Any) -> Rule:
    bounds = list(given.items()) if isinstance(given, Mapping) else []
    if len(bounds) == 1 and bounds[0][0] in _BOUNDS:
        key, value = bounds[0]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return Rule(name, _BOUNDS[key], float(value))
    raise InvalidInputError(
        f"a rule must be one of at_least and at_most with a finite number, but {name!r} is "
        f"{given!r}"
    )
