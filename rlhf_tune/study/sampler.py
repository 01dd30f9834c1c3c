"""`DQNSampler`: an Optuna sampler that moves around the incumbent, masked by safety."""

from __future__ import annotations

import contextlib
import logging
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.agents.exploration import epsilon_greedy
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.study import space
from rlhf_tune.study.expected_improvement import outlook
from rlhf_tune.study.history import History, common_space, read
from rlhf_tune.study.history import allowed as untaken
from rlhf_tune.study.planning import ahead
from rlhf_tune.study.policies import resolve
from rlhf_tune.study.risk import Risk, SafetyChecker, risk_adjusted
from rlhf_tune.study.state import Situation
from rlhf_tune.threads import one_thread

_FAR_MOVES = 64
_SMALL_LATTICE = 4096
_SAFE_STAY = 0.7  # less likely to be safe than this, staying is a risk too
_LOG = logging.getLogger(__name__)
_REMEDY = "start from a safe point, lower the threshold, or measure with more samples"


@dataclass(frozen=True)
class Candidate:
    """One candidate move of the next trial, as `DQNSampler.explain` lists it.

    Attributes:
        params: Where it leads.
        q: What the policy expects of it, less the price of its risk; where nothing is worth its
            risk, P(safe), by which the next trial is then chosen.
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


class DQNSampler(BaseSampler):
    """An Optuna sampler whose trials are moves of a reinforcement-learning agent.

    Each trial is a step of a Markov decision process: the state is the incumbent (the best
    feasible trial), the move leads to a cell of the lattice around it, the reward is the gain.
    Points that were tried, are running elsewhere or are not worth their predicted risk are
    masked; evaluating the incumbent again ("stay") is always allowed.

    Constraints are whatever the objective passes to ``trial.set_constraint(name, c)``; ``c <= 0``
    is satisfied. All state lives in the study's storage: a resumed study proposes what an
    uninterrupted one does, and workers that share a storage cooperate.
    """

    def __init__(
        self,
        *,
        policy: str = "default",
        roles: Mapping[str, str] | None = None,
        start: Mapping[str, Any] | None = None,
        budget: int | None = None,
        confidence: float = 0.5,
        price: float | None = 0.05,
        max_unsafe: int | None = None,
        independent_sampler: BaseSampler | None = None,
        seed: int | None = None,
    ) -> None:
        """Configure the sampler.

        Args:
            policy: "default" (expected improvement on a posterior whose prior was learned from
                recorded tasks, which won on the validation tasks); a file that ``rlhf-tune
                pretrain`` wrote (the same with your own prior); "dqn" (the default plus the
                residual of a pre-trained Q-network); "plan" (looks one trial ahead under
                constraints); "no_prior"; "random" (moves around the incumbent, the baseline).
            roles: What a parameter is, by name: "learning_rate", "batch_size" or "other".
                Otherwise inferred from the name.
            start: The first point, as far as it is known. Otherwise an enqueued trial, then
                learning rate 1e-3, batch size 32 and the middle of every other range.
            budget: The number of trials planned, if known; of the policies only "dqn" uses it.
            confidence: A move is masked when its predicted P(safe) is below this. While nothing
                is feasible yet, only `price` limits the search for it.
            price: What an unsafe trial costs, as a share of the gap between a useless result and
                the best: a move is worth its value x P(safe) - price x P(unsafe), and masked below
                0. None neither weights nor masks, so that `confidence` alone decides.
            max_unsafe: After this many violating trials no risk is taken any more: the sampler
                stays at the incumbent and ends ``study.optimize``.
            independent_sampler: For unordered categoricals and conditional parameters; a TPE
                sampler by default.
            seed: Of all random choices; None draws one.

        Raises:
            InvalidInputError: If an argument is out of its range.
        """
        if budget is not None and budget < 1:
            raise InvalidInputError(f"`budget` must be at least 1 trial, but got {budget}")
        if max_unsafe is not None and max_unsafe < 0:
            raise InvalidInputError(f"`max_unsafe` must not be negative, but got {max_unsafe}")
        if price is not None and price < 0:
            raise InvalidInputError(f"`price` must not be negative, but got {price}")
        self._policy = resolve(policy)
        self._roles = space.check_roles(roles)
        self._start = dict(start or {})
        self._budget = budget
        self._checker = SafetyChecker(confidence=confidence)
        self._price = price
        self._max_unsafe = max_unsafe
        self._independent = independent_sampler
        self._seed = int(np.random.SeedSequence(seed).entropy) % 2**32  # type: ignore[arg-type]

    def reseed_rng(self) -> None:
        """Nothing to do for our own stream, which comes from the seed and the trial's number."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The ordered parameters that all complete trials share, with their latest ranges."""
        self._raise_error_if_multi_objective(study)
        found = common_space(study.get_trials(deepcopy=False))
        return {name: dist for name, dist in found.items() if not dist.single()}

    @one_thread()
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of the move chosen for this trial."""
        self._raise_error_if_multi_objective(study)
        ordered = {n: d for n, d in search_space.items() if space.is_ordered(d)}
        if not ordered:
            return {}
        situation = self._situation(study, ordered, trial.number)
        if situation is None:
            return {name: self._first(study, trial, name, d) for name, d in ordered.items()}
        value, allowed = self._judge(situation)
        self._end_if_hopeless(study, situation, allowed)
        chosen = epsilon_greedy(value, allowed, self._epsilon(situation.history), situation.rng)
        if chosen == 0:
            return self._stay(situation)
        return situation.history.lattice.params(situation.cells[chosen].tolist())

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value for a parameter that is not (yet) on the lattice.

        Ordered parameters that no complete trial has start at their default; others go to the
        independent sampler.
        """
        self._raise_error_if_multi_objective(study)
        seen = any(
            param_name in t.params
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        )
        if not seen and (space.is_ordered(param_distribution) or param_name in self._start):
            return self._first(study, trial, param_name, param_distribution)
        sampler = self._independent or TPESampler(seed=self._stream(trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Log the risk taken; warn when the first trial lacks a parameter of `roles` or `start`."""
        unknown = (self._roles.keys() | self._start.keys()) - trial.params.keys()
        if trial.number == 0 and unknown and state == TrialState.COMPLETE:
            warnings.warn(
                f"`roles` and `start` name {sorted(unknown)}, but the first trial has only "
                f"{sorted(trial.params)}; is a name misspelt?",
                stacklevel=2,
            )
        if trial.constraints and _LOG.isEnabledFor(logging.INFO):
            risk = self.risk(study)
            _LOG.info("unsafe trials: %.2f predicted, %d observed", risk.predicted, risk.observed)

    @one_thread()
    def recommend(self, study: Study) -> dict[str, Any]:
        """The parameters to use: the trial with the best posterior mean among the eligible.

        Eligible are trials that are complete, feasible and fully checked: every constraint that
        any trial of the study has; those that would probably be unsafe if repeated only if there
        are no others. Unlike ``study.best_trial`` this neither picks the luckiest
        trial nor one that was never checked.

        Raises:
            CannotCertify: If no trial is eligible.
            ValueError: If the study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        history = self._history(study, common_space(study.get_trials(deepcopy=False)))
        if not history.eligible.any():
            raise CannotCertify(_nothing_eligible(history))
        view = outlook(history, self._policy.prior())
        mean = view.of_trials(np.arange(len(history.numbers))).mean
        chosen = np.where(self._checker.certified(history), mean, -np.inf).argmax()
        return dict(history.params[int(chosen)])

    @one_thread()
    def risk(self, study: Study) -> Risk:
        """The risk predicted for each checked trial before it ran, beside what was measured.

        A function of the trials alone. The same counts are logged after each trial at INFO.

        Raises:
            ValueError: If the study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        space_ = common_space(study.get_trials(deepcopy=False))
        return self._checker.risk(self._history(study, space_))

    @one_thread()
    def explain(self, study: Study) -> list[Candidate]:
        """The candidate moves of the next trial, best first; empty before any is complete.

        Raises:
            ValueError: If the study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        trials = study.get_trials(deepcopy=False)
        situation = self._situation(study, common_space(trials), len(trials))
        if situation is None:
            return []
        history, cells = situation.history, situation.cells
        q, allowed = self._judge(situation)
        view = outlook(history, situation.prior)
        value = view.in_units(situation.incumbent, cells)
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        table = zip(
            cells.tolist(),
            q.tolist(),
            (sign * view.prior_in_units(situation.incumbent, cells)).tolist(),
            (sign * value.mean).tolist(),
            value.deviation.tolist(),
            situation.p_safe.tolist(),
            self._reasons(situation, allowed),
            strict=True,
        )
        candidates = [
            Candidate(history.lattice.params(cell), q, prior, mean, deviation, p, bool(why), why)
            for cell, q, prior, mean, deviation, p, why in table
        ]
        return sorted(candidates, key=lambda c: (c.masked, -c.q))

    def _history(
        self, study: Study, ordered: Mapping[str, BaseDistribution], ignore: int | None = None
    ) -> History:
        lattice = space.lattice(ordered, self._roles)
        return read(study.get_trials(deepcopy=False), lattice, study.direction, ignore=ignore)

    def _situation(
        self, study: Study, ordered: Mapping[str, BaseDistribution], number: int
    ) -> Situation | None:
        """What trial `number` is chosen from; None before any trial is complete."""
        history = self._history(study, ordered, ignore=number)
        incumbent = self._incumbent(history)
        if incumbent is None:
            return None
        rng = np.random.default_rng(self._stream(number))
        moves = space.offsets(history.lattice.shape)
        cells = history.cells[incumbent] + moves
        cells = cells[history.lattice.inside(cells)]
        free = untaken(history, cells)
        if not free[1:].any():
            cells = np.concatenate([cells[:1], _far_cells(history, rng)])
            free = untaken(history, cells)
        p_safe = self._checker.p_safe(history, cells)
        safe = (p_safe >= self._confidence(history)) & (not self._spent(history))
        safe[0] = True
        return Situation(
            history,
            incumbent,
            moves,
            cells,
            free & safe,
            p_safe,
            self._policy.prior(),
            self._budget,
            self._seed,
            rng,
        )

    def _incumbent(self, history: History) -> int | None:
        """The row moves start from: of feasible trials only those that are likely to stay so."""
        certified = self._checker.certified(history)
        if not history.constraints or not certified.any():
            return history.incumbent()
        return int(np.where(certified, history.values, -np.inf).argmax())

    def _judge(self, situation: Situation) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """What the candidate moves [M] are worth, and which of them may be chosen.

        When none is worth its risk, not even staying, the safest is taken: it costs least, and
        what it measures may show others to be safe.
        """
        q = self._policy.q(situation)
        if situation.history.repeats_itself(situation.incumbent):
            q = np.concatenate([[0.0], q[1:]])  # without noise there is nothing to average
        if self._price is None or not situation.history.constraints:
            return q, situation.allowed
        value = risk_adjusted(situation, q, self._price)
        if self._policy.plans:
            value = value + ahead(situation, self._checker, value, self._price)
        worth = situation.allowed & (value >= 0)
        stuck = not worth[1:].any() and situation.p_safe[0] < _SAFE_STAY
        if stuck and situation.history.eligible.any():
            return situation.p_safe, situation.allowed
        return value, worth

    def _confidence(self, history: History) -> float:
        """The P(safe) a move needs; while nothing is feasible only `price` limits the search."""
        seeking = self._price is not None and not history.eligible.any()
        return 0.0 if seeking else self._checker.confidence

    def _epsilon(self, history: History) -> float:
        """The probability of a random move: risk is not taken at random."""
        epsilon = self._policy.epsilon
        return 0.0 if history.constraints and epsilon < 1 else epsilon

    def _spent(self, history: History) -> bool:
        return self._max_unsafe is not None and int(history.unsafe.sum()) >= self._max_unsafe

    def _reasons(self, situation: Situation, allowed: NDArray[np.bool_]) -> list[str]:
        """Why each candidate is masked, "" where it is `allowed` [M]."""
        free = untaken(situation.history, situation.cells)
        confidence, spent = self._confidence(situation.history), self._spent(situation.history)

        def reason(p_safe: float) -> str:
            if spent:
                return "unsafe budget spent"
            return "predicted unsafe" if p_safe < confidence else "not worth its risk"

        return [
            "" if ok else (reason(p_safe) if open_ else "taken")
            for ok, open_, p_safe in zip(allowed, free, situation.p_safe, strict=True)
        ]

    def _end_if_hopeless(
        self, study: Study, situation: Situation, allowed: NDArray[np.bool_]
    ) -> None:
        """End `study.optimize` when no risk may be taken any more and staying helps nobody."""
        history = situation.history
        if self._spent(history):
            problem = f"{int(history.unsafe.sum())} trials violated a constraint (`max_unsafe`)"
        elif not history.constraints or allowed[1:].any():
            return
        elif not history.eligible.any():
            problem = "no trial is feasible, and no move is likely enough to be"
        else:
            return
        warnings.warn(f"the study ends here: {problem}; to go on, {_REMEDY}", stacklevel=3)
        with contextlib.suppress(RuntimeError):  # asked by hand: there is no loop to end
            study.stop()

    def _stay(self, situation: Situation) -> dict[str, Any]:
        """The incumbent's own parameters, which need not lie on the lattice."""
        history = situation.history
        params = history.params[situation.incumbent]
        cell = situation.cells[0].tolist()
        return {
            axis.name: params[axis.name]
            if space.contains(axis.distribution, params[axis.name])
            else axis.values[i]
            for axis, i in zip(history.lattice.axes, cell, strict=True)
        }

    def _first(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """The start for the first trial, neighbours of it while none is complete."""
        given = self._start_of(name, distribution)
        if not space.is_ordered(distribution):
            return given
        axis = space.axis(name, distribution, self._roles.get(name))
        others = study.get_trials(deepcopy=False)
        earlier = [t.params[name] for t in others if t.number < trial.number and name in t.params]
        if not earlier:
            return axis.default if given is None else given
        rng = np.random.default_rng(self._stream(trial.number, name))
        return axis.neighbour(earlier[0] if given is None else given, 3 + trial.number // 2, rng)

    def _start_of(self, name: str, distribution: BaseDistribution) -> Any:
        """The user's start of a parameter, None where there is none."""
        value = self._start.get(name)
        if value is not None and not space.contains(distribution, value):
            raise InvalidInputError(
                f"`start` must lie within the range, but {name}={value!r} is outside of "
                f"{distribution}"
            )
        return value

    def _stream(self, number: int, name: str = "") -> int:
        """The seed of trial `number`, which makes a resumed study equal an uninterrupted one."""
        words = [self._seed, number, zlib.crc32(name.encode())]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def _far_cells(history: History, rng: np.random.Generator) -> NDArray[np.int64]:
    """Untried cells [M, D] of the whole lattice, for when all around the incumbent are taken."""
    lattice = history.lattice
    taken = {tuple(cell) for cell in history.cells.tolist()}
    drawn = rng.integers(np.array(lattice.shape), size=(_FAR_MOVES, len(lattice.shape)))
    if lattice.size <= _SMALL_LATTICE:
        drawn = np.argwhere(np.ones(lattice.shape, dtype=np.bool_))
    return drawn[[tuple(cell) not in taken for cell in drawn.tolist()]]


def _nothing_eligible(history: History) -> str:
    complete = int(history.complete.sum())
    if not complete:
        return "at least one trial must be complete, but there is none; run the study first"
    checked = history.complete & history.measured
    tried = f"of {complete} complete trials {complete - int(checked.sum())} were not fully checked"
    if checked.any():
        worst = np.where(checked, history.costs.max(axis=1), np.inf)
        row = int(worst.argmin())
        tried += (
            f", and the least violating, number {history.numbers[row]} at "
            f"{dict(history.params[row])}, exceeds its bound by {worst[row]:.3g}"
        )
    return f"no trial satisfies all constraints {list(history.constraints)}: {tried}; {_REMEDY}"
