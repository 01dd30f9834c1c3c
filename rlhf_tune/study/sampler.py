"""`DQNSampler`: an Optuna sampler that moves around the incumbent, masked by safety."""

from __future__ import annotations

import contextlib
import logging
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.study import arguments, decision, notices, space, workers
from rlhf_tune.study.history import History, common_space, is_preferential, read
from rlhf_tune.study.policies import resolve
from rlhf_tune.study.risk import Risk, SafetyChecker
from rlhf_tune.study.roles import check_roles
from rlhf_tune.study.state import StudyState
from rlhf_tune.threads import one_thread

if TYPE_CHECKING:
    from rlhf_tune.study.explanation import Explanation
    from rlhf_tune.study.recommendation import Recommendation

_ATTEMPTS = 32  # at a point that no other worker has; a starved worker needs more than two


class DQNSampler(BaseSampler):
    """An Optuna sampler whose trials are moves of a reinforcement-learning agent.

    Each trial is a step of a Markov decision process: the state is the incumbent (the best
    feasible trial), the move leads to a cell of the lattice around it, the reward is the gain.
    Points that were tried, are running elsewhere or are not worth their predicted risk are
    masked; evaluating the incumbent again ("stay") is allowed until repeats have agreed. A study
    with constraints ends by itself where nothing more is to be found.

    Constraints are whatever the objective passes to ``trial.set_constraint(name, c)``; ``c <= 0``
    is satisfied. All state lives in the study's storage: a resumed study proposes what an
    uninterrupted one does, and workers that share a storage never run the same point at once. The
    point of a trial whose process was killed, which a heartbeat retires, is proposed again first.
    """

    def __init__(
        self,
        *,
        policy: str = "default",
        roles: Mapping[str, str] | None = None,
        start: Mapping[str, Any] | None = None,
        budget: int | None = None,
        confidence: float = 0.5,
        price: float | None = 0.01,
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
            budget: The number of trials planned, if known, to say how many are saved where a study
                ends by itself; of the policies only "dqn" uses it.
            confidence: A move is masked when its predicted P(safe) is below this, once a trial
                is feasible; until then nothing limits the search for one.
            price: What an unsafe trial costs, as a share of the gap between a useless result and
                the best: a move is worth its value x P(safe) - price x P(unsafe), and masked below
                0. None neither weights nor masks, so that `confidence` alone decides. The
                defaults of both were chosen on validation tasks.
            max_unsafe: After this many violating trials no risk is taken any more: the sampler
                stays at the incumbent and ends ``study.optimize``.
            independent_sampler: For conditional parameters, which not all trials have; a TPE
                sampler by default.
            seed: Of all random choices; None draws one.

        Raises:
            InvalidInputError: If an argument is out of its range.
        """
        arguments.check(policy=policy, roles=roles, start=start, budget=budget, seed=seed)
        arguments.check(confidence=confidence, price=price, max_unsafe=max_unsafe)
        self._policy = resolve(policy)
        self._roles = check_roles(roles)
        self._start = dict(start or {})
        self._planned_trials = budget
        self._caution = decision.Caution(SafetyChecker(confidence=confidence), price, max_unsafe)
        self._independent = independent_sampler
        self._seed = int(np.random.SeedSequence(seed).entropy) % 2**32  # type: ignore[arg-type]

    def reseed_rng(self) -> None:
        """Nothing to do for our own stream, which comes from the seed and the trial's number."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that all complete trials share, with their latest ranges."""
        self._raise_error_if_multi_objective(study)
        found = common_space(study.get_trials(deepcopy=False))
        return {name: dist for name, dist in found.items() if not dist.single()}

    @one_thread()
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of the move chosen for this trial, apart from those of other workers."""
        self._raise_error_if_multi_objective(study)
        if not search_space:
            workers.claim(study, trial, {}, {})
            return {}
        params: dict[str, Any] = {}
        rivals: list[int] = []  # that took the same point, and may choose anew as well
        for attempt in range(_ATTEMPTS):  # each farther from what everybody wants
            trials = study.get_trials(deepcopy=False)
            before = sum(number < trial.number for number in rivals)
            leave = attempt + before + workers.undecided(trials, trial.number, search_space)
            last = params, rivals
            params = self._propose(study, trial, search_space, leave)
            workers.claim(study, trial, params, search_space)
            now, open_ = study.get_trials(deepcopy=False), workers.unfinished(trials)
            rivals = workers.rivals(now, trial.number, search_space, open_)
            if not rivals or (params, rivals) == last:
                break
        return params

    def _propose(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
        leave: int,
    ) -> dict[str, Any]:
        """The move for a trial; the best `leave` are left to others that have none yet."""
        rng = np.random.default_rng(self._stream(trial.number))
        history = self.history(study, search_space, ignore=trial.number)
        killed = [] if self._caution.spent(history) else np.flatnonzero(history.again).tolist()
        if leave < len(killed):
            return history.params_at(killed[leave])
        leave -= len(killed)
        state = self._observe(history, rng)
        if state is None:
            return self._opening(history, rng, leave)
        value, allowed = decision.judge(state, self._policy, self._caution)
        self._end_if_nothing_left(study, state, allowed)
        epsilon = self._epsilon(state.history)
        chosen = decision.choose(state, value, allowed, epsilon=epsilon, rng=rng, leave=leave)
        if not chosen:
            row = decision.repeatable(state, leave) if chosen is None else state.incumbent
            return state.history.params_at(row)
        return state.history.lattice.params(state.cells[chosen].tolist())

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value for a parameter that is not (yet) on the lattice.

        Parameters that no complete trial has start at their default; others, which only some
        trials have, go to the independent sampler.
        """
        self._raise_error_if_multi_objective(study)
        seen = any(
            param_name in t.params
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        )
        if not seen:
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
        """Log the trial's constraints, what it was recognised as, and what is in vain.

        Beside Optuna's lines, or to our logger where that is configured to show INFO: at INFO the
        constraints of each trial with the P(safe) that was predicted, and at the first trial what
        its parameters were taken for; at WARNING that nothing is feasible or points are repeated.

        A failure is written down, since one whose process was killed is not told.

        It warns when the first trial lacks a parameter of `roles` or `start`.
        """
        if state == TrialState.FAIL:
            workers.tell_failure(study, trial)
        log = notices.logger()
        if trial.number == 0 and trial.params and log.isEnabledFor(logging.INFO):
            axes = space.lattice(trial.distributions, self._roles).axes
            log.info("%s", notices.recognised(axes, trial.params))
        unknown = (self._roles.keys() | self._start.keys()) - trial.params.keys()
        if trial.number == 0 and unknown and state == TrialState.COMPLETE:
            warnings.warn(
                f"`roles` and `start` name {sorted(unknown)}, but the first trial has only "
                f"{sorted(trial.params)}; is a name misspelt?",
                stacklevel=2,
            )
        if trial.constraints and log.isEnabledFor(logging.INFO):
            log.info("%s", notices.line(trial, values, self._foretold(study, trial.number)))
        earlier = notices.ended(study.get_trials(deepcopy=False))
        for notice in (notices.unsafe(earlier, trial), notices.idle(earlier, trial)):
            if notice:
                log.warning("%s", notice)

    @one_thread()
    def _foretold(self, study: Study, number: int) -> float | None:
        """P(safe) of a trial as predicted before it; None where nothing was known."""
        history = self.history(study)
        rows = np.flatnonzero(history.numbers == number)
        return self._caution.checker.foretold(history, int(rows[0])) if len(rows) else None

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
        return self.recommendation(study).params

    @one_thread()
    def recommendation(self, study: Study) -> Recommendation:
        """The same with what speaks for it: its trial, what is expected of it, and its costs.

        Raises:
            CannotCertify: If no trial is eligible.
            ValueError: If the study has several objectives.
        """
        from rlhf_tune.study.recommendation import recommendation  # most trials ask for none

        self._raise_error_if_multi_objective(study)
        history, trials = self.history(study), study.get_trials(deepcopy=False)
        if not history.eligible.any():
            raise CannotCertify(decision.nothing_eligible(history))
        prior, checker = self._policy.prior(), self._caution.checker
        return recommendation(history, trials, prior=prior, checker=checker, sign=sign_of(study))

    @one_thread()
    def risk(self, study: Study) -> Risk:
        """The risk predicted for each checked trial before it ran, beside what was measured.

        A function of the trials alone.

        Raises:
            ValueError: If the study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        return self._caution.checker.risk(self.history(study))

    @one_thread()
    def explain(self, study: Study) -> Explanation:
        """The candidate moves of the next trial, best first; empty before any is complete.

        A list that prints as a table.

        Raises:
            ValueError: If the study has several objectives.
        """
        from rlhf_tune.study.explanation import Explanation, explanation  # nor for this

        self._raise_error_if_multi_objective(study)
        number = len(study.get_trials(deepcopy=False))
        rng = np.random.default_rng(self._stream(number))
        history = self.history(study)
        state = self._observe(history, rng) if history.lattice.axes else None
        if state is None:
            return Explanation()
        return explanation(state, self._policy, self._caution, sign_of(study))

    def history(
        self,
        study: Study,
        parameters: Mapping[str, BaseDistribution] | None = None,
        ignore: int | None = None,
    ) -> History:
        """The trials but number `ignore`, over `parameters` or all that complete ones share."""
        found = parameters or common_space(study.get_trials(deepcopy=False))
        lattice = space.lattice(found, self._roles)
        if is_preferential(study):
            from rlhf_tune.study.preferences import history_of  # few studies need it

            return history_of(study, lattice, ignore=ignore)
        return read(study.get_trials(deepcopy=False), lattice, study.direction, ignore=ignore)

    def _observe(self, history: History, rng: np.random.Generator) -> StudyState | None:
        """What the next trial is chosen from; None before any trial is complete."""
        prior, trials = self._policy.prior(), self._planned_trials
        return decision.observe(history, self._caution, prior=prior, planned_trials=trials, rng=rng)

    def _epsilon(self, history: History) -> float:
        """The probability of a random move: risk is not taken at random."""
        epsilon = self._policy.epsilon
        return 0.0 if history.constraints and epsilon < 1 else epsilon

    def _end_if_nothing_left(
        self, study: Study, state: StudyState, allowed: NDArray[np.bool_]
    ) -> None:
        """End `study.optimize` when a further trial would be for nothing."""
        problem = decision.nothing_left(state, allowed, self._caution)
        if not problem:
            return
        trials = notices.ended(study.get_trials(deepcopy=False))
        spared = (self._planned_trials or 0) - len(state.history.numbers)
        saved = f" ({spared} of {self._planned_trials} trials are saved)" if spared > 0 else ""
        points = len(set(map(notices.point_of, trials)))
        after = f"after {len(trials)} trials at {points} distinct points"
        warnings.warn(f"the study ends here, {after}: {problem}{saved}", stacklevel=3)
        with contextlib.suppress(RuntimeError):  # asked by hand: there is no loop to end
            study.stop()

    def _opening(self, history: History, rng: np.random.Generator, leave: int) -> dict[str, Any]:
        """The point of a trial while none is complete; the best `leave` are left to others."""
        from rlhf_tune.study.opening import opening  # the first trials alone need it

        starts = {a.name: self._start_of(a.name, a.distribution) for a in history.lattice.axes}
        first = [
            axis.index(axis.default if starts[axis.name] is None else starts[axis.name])
            for axis in history.lattice.axes
        ]
        prior = self._policy.prior()
        return history.lattice.params(opening(history, first, prior, rng, leave))

    def _first(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """The start of a parameter for the first trial; for those asked with it, near that."""
        given = self._start_of(name, distribution)
        axis = space.axis(name, distribution, self._roles.get(name))
        start = axis.default if given is None else given
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        earlier = [t.params[name] for t in others if name in t.params]
        leave = workers.undecided(others, trial.number, {name: distribution}, trial.params)
        if not earlier and not leave:
            return start
        apart = self._apart(study, trial, axis, start, leave)
        if len(apart) > leave:
            return apart[leave]
        near = axis.near(earlier[0] if given is None and earlier else start, 3 + trial.number // 2)
        if any(t.state == TrialState.RUNNING for t in others):  # apart, by their numbers
            near = [start, *sorted(near, key=lambda v: abs(axis.index(v) - axis.index(start)))]
            fresh = [value for value in near if value not in earlier] or near
            return fresh[leave % len(fresh)]
        fresh = [value for value in near if value not in earlier] or near or [start]
        rng = np.random.default_rng(self._stream(trial.number, name))
        return fresh[int(rng.integers(len(fresh)))]

    def _apart(
        self, study: Study, trial: FrozenTrial, axis: space.Axis, start: Any, leave: int
    ) -> list[Any]:
        """Values of a parameter that go well with what runs, while the others are unknown."""
        from rlhf_tune.study.opening import apart  # nor this

        asked = {**trial.distributions, axis.name: axis.distribution}
        history = self.history(study, asked, ignore=trial.number)
        if history.failed.any() or history.judged:
            return []
        return apart(history, trial.params, axis, start, self._policy.prior(), leave + 1)

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


def sign_of(study: Study) -> float:
    """By which a value that is larger where better is the study's own."""
    larger = is_preferential(study) or study.direction == StudyDirection.MAXIMIZE
    return 1.0 if larger else -1.0
