"""Why the next trial is what it is: the candidate moves, and what speaks for and against each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from rlhf_tune.study import decision
from rlhf_tune.study.decision import Caution
from rlhf_tune.study.policies import Policy
from rlhf_tune.study.state import StudyState
from rlhf_tune.tabled import Tabled
from rlhf_tune.tables import Table


@dataclass(frozen=True)
class Candidate:
    """One candidate move of the next trial, as `DQNSampler.explain` lists it.

    Attributes:
        params: Where it leads.
        q: What the policy expects of it, less the price of its risk, by which the next trial is
            chosen; P(safe) while nothing is feasible, or where nothing else is worth its risk.
        prior: What other tasks alone let expect of the objective there, counted from the posterior
            mean of the incumbent; in the objective's units.
        mean: Posterior mean of the objective there: the prior corrected by this study's trials.
        deviation: Posterior deviation of the objective there.
        p_safe: Predicted probability that all constraints hold there.
        masked: Whether it may not be chosen.
        why: "taken", "predicted unsafe", "not worth its risk", "unsafe budget spent", or "" where
            it is not masked.
    """

    params: dict[str, Any]
    q: float
    prior: float
    mean: float
    deviation: float
    p_safe: float
    masked: bool
    why: str


@final
class Explanation(Tabled, list[Candidate]):
    """The candidate moves of the next trial, best first: a list that prints as a table."""

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        super().__init__(candidates)

    def table(self) -> Table:
        """A row for each candidate."""
        if not self:
            return Table(
                (), (), notes=("no trial is complete yet, so there is nothing to explain",)
            )
        names = list(dict.fromkeys(name for each in self for name in each.params))
        figures = ("q", "prior", "mean", "deviation", "p_safe", "why")
        rows = [
            [*(each.params.get(name) for name in names), *(getattr(each, key) for key in figures)]
            for each in self
        ]
        masked = Counter(each.why for each in self if each.masked)
        counts = ", ".join(f"{count} {why}" for why, count in masked.most_common())
        note = f"{len(self)} candidates, of which {masked.total()} are masked"
        return Table(
            [*names, *figures],
            rows,
            title="candidate moves of the next trial, best first",
            notes=(f"{note}: {counts}" if masked else note,),
        )


def explanation(state: StudyState, policy: Policy, caution: Caution, sign: float) -> Explanation:
    """The candidates of a state; `sign` is -1 where the objective is minimized, else 1."""
    cells, view = state.cells, state.outlook
    q, allowed = decision.judge(state, policy, caution)
    value = view.in_units(state.incumbent, cells)
    table = zip(
        cells.tolist(),
        q.tolist(),
        (sign * view.prior_in_units(state.incumbent, cells)).tolist(),
        (sign * value.mean).tolist(),
        value.deviation.tolist(),
        state.p_safe.tolist(),
        decision.reasons(state, allowed, caution),
        strict=True,
    )
    params = state.history.lattice.params
    candidates = [
        Candidate(params(cell), q, prior, mean, deviation, p, bool(why), why)
        for cell, q, prior, mean, deviation, p, why in table
    ]
    return Explanation(sorted(candidates, key=lambda c: (c.masked, -c.q)))
