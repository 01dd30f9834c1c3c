"""The remedy of unlike treatment: a term of the loss that prices the gaps, group by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.frameworks import framework_of
from rlhf_tune.safety.evaluation import Outputs
from rlhf_tune.safety.gaps import Bits, detail, rows_of
from rlhf_tune.safety.groups import Key, Level, labels_by_key
from rlhf_tune.safety.measurement import Measurement
from rlhf_tune.safety.remedy import Batch, Remedy

# Chosen on Adult, not tuned since; docs/benchmarks/fairness.md has what they do on other data.
_MOST = 4.0
_GAIN = 8.0
_INSIDE = 1.75  # half-widths within the bound: about 1.5 standard errors more than would just do


@final
@dataclass(frozen=True)
class Contrast:
    """What one weight moves: a rate of a group, against that of the others of its level.

    Attributes:
        weight: Name of the weight.
        key: Of the level.
        group: The group that pays where the weight is above 0.
        others: Those that are paid.
        rate: "selection_rate", "true_positive_rate" or "false_positive_rate".
        share: Of the group, among all samples behind the rate.
        details: The group's rate and those of all of the level, as a measurement's details name
            them.
    """

    weight: str
    key: Key
    group: str
    others: tuple[str, ...]
    rate: str
    share: float
    details: tuple[str, ...]

    def column(self, labels: NDArray[np.str_]) -> NDArray[np.float32]:
        """What each sample [N] pays for a unit of the weight, by its group's label [N].

        With 1 / P(group) and -1 / P(others) the mean over selected samples would be the
        difference of rates, without bias in batches of any size. Both are scaled by P(group)
        P(others), so that a sample of the rarer side pays about 1 whatever the rate, and one size
        of step serves all.
        """
        paid = np.where(labels == self.group, 1 - self.share, 0.0)
        return np.where(np.isin(labels, self.others), -self.share, paid).astype(np.float32)

    def missed(self, measured: Measurement) -> tuple[float, float]:
        """How far the group's rate is above, and below, what the others' allow.

        Of two groups each may be half of the gap from the middle of the rates. The bound is kept
        by an upper confidence bound, and again on other samples, so the gap must stay inside by
        more than the half-width.
        """
        known = measured.details
        if not all(name in known for name in self.details):
            return 0.0, 0.0
        rate, *rates = (known[name] for name in self.details)
        off = rate - (max(rates) + min(rates)) / 2
        half_width = measured.interval[1] - measured.value
        allowed = max(0.0, measured.bound - _INSIDE * half_width) / 2
        return off - allowed, -off - allowed


def fair_training(
    levels: Sequence[Level],
    rates: Sequence[str],
    right: Bits,
    *,
    positive: int,
    outputs: Outputs,
    name: str | None,
) -> Remedy:
    """Train against gaps, by prices that may have either sign: "fair_weight".

    The loss gains, for each contrast of rates, its weight times the mean of what samples pay,
    each as far as the model selects it, by its probability of the positive class. That is linear
    in the probabilities: the square of a batch's gap would also punish its noise. A weight ascends
    on the signed miss of the measured rates (dual ascent on the two bounds of a difference).

    Args:
        levels: The groups.
        rates: That are compared.
        right: Whether each label is positive [N], for the groups' shares.
        positive: The class that is a benefit.
        outputs: What the model's outputs are.
        name: Of the constraint, where its weights must be told from another's.
    """
    found = tuple(_contrasts(levels, rates, right, name))
    term = _Priced(found, positive, outputs)

    def missed(measured: Measurement) -> Mapping[str, tuple[float, float]]:
        return {each.weight: each.missed(measured) for each in found}

    return Remedy(
        tuple(each.weight for each in found),
        term,
        start=0.0,
        rise=_MOST / 8,
        fall=_MOST / 8,
        within=(-_MOST, _MOST),
        gain=_GAIN,
        missed=missed,
        columns=term.columns,
    )


def _contrasts(
    levels: Sequence[Level], rates: Sequence[str], right: Bits, name: str | None
) -> Iterator[Contrast]:
    """One for each rate of two groups; of more groups, one for each of them."""
    for level in levels:
        for rate in rates:
            n = level.counts(rows_of(rate, right))
            known = [int(group) for group in np.flatnonzero(n)]
            several = len(known) > 2
            if len(known) < 2:
                continue
            for group in known if several else [_favoured(level, known, right)]:
                where = f"{level.label}={level.names[group]}" if several else level.label
                marks = [
                    *([] if name is None else [name]),
                    *([] if rate == "selection_rate" else [rate]),
                    *([where] if several or len(levels) > 1 else []),
                ]
                yield Contrast(
                    weight=f"fair_weight[{', '.join(marks)}]" if marks else "fair_weight",
                    key=level.key,
                    group=level.names[group],
                    others=tuple(level.names[other] for other in known if other != group),
                    rate=rate,
                    share=float(n[group] / n[known].sum()),
                    details=tuple(detail(level, rate, each) for each in (group, *known)),
                )


def _favoured(level: Level, known: Sequence[int], right: Bits) -> int:
    """The group with the larger share of positive labels: its weight is above 0, as a rule."""
    positives, n = level.counts(right), level.counts(np.ones_like(right))
    return max(known, key=lambda group: positives[group] / n[group])


@final
@dataclass(frozen=True, eq=False)
class _Priced:
    """The term: what selected samples pay on the mean of a batch."""

    contrasts: tuple[Contrast, ...]
    positive: int
    outputs: Outputs

    def columns(self, groups: Any, n: int | None = None) -> NDArray[np.float32]:
        """What samples pay for a unit of each weight [N, C]; see `Remedy.columns`."""
        labels = labels_by_key(groups, [each.key for each in self.contrasts], n)
        return np.stack([each.column(labels[each.key]) for each in self.contrasts], axis=1)

    def __call__(self, model: Any, batch: Batch, outputs: Any, weights: Mapping[str, Any]) -> Any:
        paid = [weights[each.weight] * batch.columns[:, i] for i, each in enumerate(self.contrasts)]
        by = {"true_positive_rate": "negative", "false_positive_rate": "positive"}
        if_positive, if_negative = (
            sum(
                part
                for part, each in zip(paid, self.contrasts, strict=True)
                if by.get(each.rate) != label
            )
            for label in ("positive", "negative")
        )
        return framework_of(model).mean_price(
            model,
            batch,
            outputs,
            if_positive,
            if_negative,
            positive=self.positive,
            kind=self.outputs,
        )
