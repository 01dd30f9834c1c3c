"""Workers that share a storage: apart, without a lock; and trials whose process was killed."""

import math
import pickle
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from rlhf_tune import DQNSampler
from rlhf_tune.study import workers
from rlhf_tune.study.transitions import transitions
from tests.study import side_by_side
from tests.study.bowl import BATCH, LR, loss, objective, params, study, with_constraint

SPACE = {"lr": LR, "batch_size": BATCH}

pytestmark = [
    # Optuna's heartbeat is experimental, and says so at each storage.
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


def suggested(trial: optuna.Trial) -> dict[str, object]:
    objective(trial)
    return trial.params


def in_lockstep(s: optuna.Study, size: int, rounds: int, noise: float = 0.0) -> list[int]:
    """How many points each round of `size` trials had that were asked for before any began."""
    rng, different = np.random.default_rng(0), []
    for _ in range(rounds):
        asked = [s.ask() for _ in range(size)]
        for t in asked:
            t.suggest_float("lr", 1e-5, 1e-1, log=True)
        for t in asked:
            t.suggest_int("batch_size", 16, 512, log=True)
        for t in asked:
            s.tell(t, loss(t.params["lr"], t.params["batch_size"]) + noise * rng.normal())
        different.append(len({tuple(t.params.values()) for t in asked}))
    return different


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("size", [2, 8])
def test_what_is_asked_together_differs_from_the_first_round_on(size: int, noise: float) -> None:
    assert in_lockstep(study(), size, 8, noise) == [size] * 8


def test_the_first_trials_of_few_categories_differ_in_the_next_parameter() -> None:
    s = study()
    asked = [s.ask() for _ in range(6)]
    for t in asked:
        t.suggest_categorical("optimizer", ["sgd", "adam"])
    for t in asked:
        t.suggest_float("lr", 1e-5, 1e-1, log=True)
    assert len({tuple(t.params.values()) for t in asked}) == 6


def test_suggestions_of_workers_are_a_function_of_the_storage() -> None:
    both = [study(seed=7), study(seed=7)]
    for s in both:
        in_lockstep(s, 4, 5)
    assert params(both[0]) == params(both[1])


def test_the_best_points_are_left_to_those_who_asked_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if three workers had been read in mid-suggestion: none has written anything yet."""
    s = study()
    s.optimize(objective, n_trials=6)
    best = [c.params for c in s.sampler.explain(s) if not c.masked]
    monkeypatch.setattr(workers, "claim", lambda *_: None)
    asked = [s.ask() for _ in range(3)]
    got = [suggested(t) for t in asked[::-1]]
    assert got[::-1] == best[:3]


def test_a_claim_that_was_not_seen_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other worker's claim appears between reading and writing."""
    s, other = study(), study(seed=1)
    other = optuna.load_study(study_name=s.study_name, storage=s._storage, sampler=other.sampler)
    s.optimize(objective, n_trials=6)
    claim, raced = workers.claim, []

    def late(*arguments: object) -> None:
        if not raced:
            raced.append(arguments[2])
            rival = other._storage.create_new_trial(s._study_id)
            frozen = other._storage.get_trial(rival)
            claim(other, frozen, *arguments[2:])
        claim(*arguments)

    monkeypatch.setattr(workers, "claim", late)
    assert s.ask(SPACE).params != raced[0]


def test_to_average_is_one_worker_s_job() -> None:
    """With results that are nearly all noise "stay" is attractive; only one does it at a time."""
    s, rng = study(), np.random.default_rng(1)
    space = {"x": FloatDistribution(0, 1, step=0.25)}
    seen = set()
    for _ in range(30):
        known = {tuple(t.params.values()) for t in s.trials}
        asked = [s.ask(space) for _ in range(3)]
        repeats = [t for t in asked if tuple(t.params.values()) in known]
        points = [tuple(t.params.values()) for t in asked]
        seen.add(len(repeats))
        assert len(set(points)) == len(points)
        for t in asked:
            s.tell(t, float(rng.normal()))
    assert 1 in seen


def test_more_workers_than_points_still_get_one_each() -> None:
    s = study()
    space = {"kind": CategoricalDistribution(["a", "b", None])}
    asked = [s.ask(space) for _ in range(5)]
    assert {t.params["kind"] for t in asked} == {"a", "b", None}
    for t in asked:
        s.tell(t, 1.0)
    assert s.ask(space).params["kind"] in ("a", "b", None)


def test_enqueued_trials_are_where_they_were_sent() -> None:
    s = study()
    s.optimize(objective, n_trials=4)
    expected = study()
    expected.optimize(objective, n_trials=5)
    s.enqueue_trial(params(expected)[4])
    first, second = s.ask(), s.ask()  # neither has parameters yet
    assert second.suggest_float("lr", 1e-5, 1e-1, log=True) > 0
    assert first.suggest_float("lr", 1e-5, 1e-1, log=True) == params(expected)[4]["lr"]
    for t in (first, second):
        t.suggest_int("batch_size", 16, 512, log=True)
    assert first.params != second.params


def test_worker_processes_on_a_journal(tmp_path: Path) -> None:
    trials = side_by_side.run(side_by_side.journal(tmp_path), workers=4, trials=40)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 40
    assert side_by_side.at_once(trials) == []
    assert side_by_side.repeated_in_vain(trials) == []


def test_a_worker_that_is_far_slower_than_seven_others_keeps_its_point() -> None:
    s = study()
    s.optimize(objective, n_trials=3)
    slow = s.ask(SPACE)
    others = [s.ask(SPACE) for _ in range(6)]
    for _ in range(150):
        s.tell(others.pop(0), 9.0)  # all as bad, so that any point is worth a look
        others.append(s.ask(SPACE))
        assert others[-1].params != slow.params


# --- trials whose process was killed ---


def retired(s: optuna.Study, trial: optuna.Trial) -> None:
    """What a heartbeat does: the state alone changes, and no sampler is told."""
    s._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_the_point_of_a_killed_trial_is_proposed_first_once(before: int) -> None:
    s = study()
    s.optimize(objective, n_trials=before)
    lost = s.ask(SPACE)
    retired(s, lost)
    again = s.ask(SPACE)
    assert again.params == lost.params
    retired(s, again)  # a point that kills its worker is not tried a third time
    assert all(s.ask(SPACE).params != lost.params for _ in range(5))


def test_a_trial_killed_before_it_asked_for_parameters_comes_back() -> None:
    s = study()
    s.optimize(objective, n_trials=5)
    expected = study()
    expected.optimize(objective, n_trials=6)
    retired(s, s.ask())
    assert s.ask(SPACE).params == params(expected)[5]


def test_several_killed_trials_come_back_to_one_worker_each() -> None:
    s = study()
    s.optimize(objective, n_trials=5)
    lost = [s.ask(SPACE) for _ in range(3)]
    for t in lost:
        retired(s, t)
    back = [s.ask() for _ in range(3)]
    assert [suggested(t) for t in back] == [t.params for t in lost]


def test_a_trial_whose_objective_raised_is_not_proposed_again() -> None:
    s = study()
    s.optimize(objective, n_trials=5)
    raised = s.ask(SPACE)
    s.tell(raised, state=TrialState.FAIL)
    assert all(s.ask(SPACE).params != raised.params for _ in range(5))


def test_a_killed_trial_is_no_sign_that_its_neighbours_fail() -> None:
    """The study goes on as one in which the trial ran a little later."""
    s, whole = study(seed=3), study(seed=3)
    for each in (s, whole):
        each.optimize(objective, n_trials=5)
    retired(s, s.ask(SPACE))
    s.optimize(objective, n_trials=1)
    whole.optimize(objective, n_trials=1)
    assert params(s)[6] == params(whole)[5]
    assert not s.sampler.history(s).failed.any()


def test_optuna_s_own_retry_is_not_repeated(tmp_path: Path) -> None:
    s = study()
    s.optimize(objective, n_trials=5)
    lost = s.ask(SPACE)
    retired(s, lost)
    RetryHeartbeatStaleTrialCallback(max_retry=1)(s, s.trials[lost.number])
    s.optimize(objective, n_trials=6)
    assert params(s).count(lost.params) == 2


@pytest.mark.filterwarnings("ignore:the study ends here")
def test_no_risk_is_taken_again_when_the_budget_of_risk_is_spent() -> None:
    s = study(max_unsafe=0)
    s.optimize(with_constraint, n_trials=1)
    lost, unsafe = s.ask(SPACE), s.ask(SPACE)
    unsafe.set_constraint("robustness", 1.0)
    s.tell(unsafe, 0.0)
    retired(s, lost)
    assert s.ask(SPACE).params == s.trials[0].params


def test_a_killed_worker_comes_back_by_heartbeat(tmp_path: Path) -> None:
    side_by_side.check_that_a_killed_trial_comes_back(f"sqlite:///{tmp_path}/study.db")


def test_transitions_lose_no_trial_of_workers() -> None:
    s = study()
    in_lockstep(s, 4, 5, noise=0.1)
    table = transitions(s)
    assert table.number.tolist() == list(range(1, 20))
    gained = table.next_state[-1, 0] - table.state[0, 0]
    assert math.isclose(table.reward.sum(), gained, abs_tol=1e-9)


def test_a_pickled_sampler_sees_the_claims() -> None:
    s = study()
    s.optimize(objective, n_trials=4)
    first = s.ask()
    s.sampler = pickle.loads(pickle.dumps(DQNSampler(seed=0)))
    second = s.ask(SPACE)
    assert suggested(first) != second.params
