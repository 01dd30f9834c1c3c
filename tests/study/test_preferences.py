"""Preferential studies: the sampler reads comparisons, and never the placeholder values."""

import itertools
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from rlhf_tune import DQNSampler
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.feedback import Judgement, JudgementLog, bradley_terry
from rlhf_tune.study.comparing import Session
from rlhf_tune.study.history import is_preferential
from rlhf_tune.study.preferences import (
    OUTCOMES,
    answers_of,
    make_preferential,
    outcome_table,
    report,
    reported,
    take_back,
)
from rlhf_tune.study.transitions import transitions

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {"x": FloatDistribution(1e-4, 1.0, log=True), "n": IntDistribution(1, 16)}


def utility(params: dict[str, float]) -> float:
    """Best at 1e-2 and at the top of the range of n."""
    return -((math.log10(params["x"]) + 2) ** 2) - 0.05 * (16 - params["n"]) ** 2


def preferential(sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    study = optuna.create_study(sampler=sampler or DQNSampler(seed=0))
    make_preferential(study)
    return study


def compare(study: optuna.Study, comparisons: int, seed: int, log: Path) -> None:
    """A new trial before each question of a session, with noisy answers."""
    rng = np.random.default_rng(seed)
    session = Session(study, JudgementLog(log), seed=seed)
    study.ask(SPACE)
    for _ in range(comparisons):
        study.ask(SPACE)
        left, right = session.question()
        gap = utility(left.params) - utility(right.params)
        first = rng.random() < 1 / (1 + math.exp(-gap))
        session.answer(left, right, (1.0, 0.0) if first else (0.0, 1.0))


def test_thirty_noisy_comparisons_find_the_top_of_a_mixed_space(tmp_path: Path) -> None:
    """Random search has the same questions; its best trial is that of Bradley-Terry."""
    ours, random, helped = [], [], []
    for seed in range(8):
        study = preferential(DQNSampler(seed=seed))
        compare(study, 30, seed, tmp_path / f"{seed}")
        ours.append(-utility(study.sampler.recommend(study)))
        drawn = preferential(RandomSampler(seed=seed))
        compare(drawn, 30, seed, tmp_path / f"{seed}-random")
        pairs = [(i, j) for i, j, _ in answers_of(drawn).preferences]
        best = int(bradley_terry(len(drawn.trials), pairs).argmax())
        random.append(-utility(drawn.trials[best].params))
        helped.append(-utility(DQNSampler(seed=0).recommend(drawn)))
    print(f"median regret {np.median(ours):.3f}, of random {np.median(random):.3f}")
    print(f"of random, recommended by our belief: {np.median(helped):.3f}")
    assert np.median(ours) < 0.5
    assert np.median(ours) < 0.6 * np.median(random)
    assert np.median(ours) < np.median(helped)


def with_trials(n: int = 4) -> optuna.Study:
    study = preferential()
    for k in range(n):
        params = {"x": 10.0 ** (-k), "n": min(16, 4 * (k + 1))}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=SPACE))
    return study


def test_placeholders_are_never_read() -> None:
    """The same comparisons with any values lead to the same proposal."""
    proposals = []
    for value in (0.0, 1e6):
        study = preferential()
        for k in range(4):
            params = {"x": 10.0 ** (-k), "n": min(16, 4 * (k + 1))}
            study.add_trial(create_trial(params=params, distributions=SPACE, value=value * (k - 2)))
        for winner, loser in ((2, 1), (2, 0), (2, 3), (1, 3)):
            report(study, Judgement.preferring(winner, loser))
        proposals.append((study.ask(SPACE).params, study.sampler.recommend(study)))
    assert proposals[0] == proposals[1]
    assert proposals[0][1] == {"x": 1e-2, "n": 12}


def test_what_is_preferred_is_recommended_whatever_the_direction() -> None:
    for direction in ("minimize", "maximize"):
        study = optuna.create_study(direction=direction, sampler=DQNSampler(seed=0))
        make_preferential(study)
        study.add_trials(with_trials().trials)
        report(study, Judgement.preferring(1, 0))
        report(study, Judgement.preferring(1, 2))
        assert study.sampler.recommend(study) == study.trials[1].params
        means = {c.mean for c in study.sampler.explain(study)}
        assert len(means) > 1


def test_before_any_comparison_trials_are_far_apart() -> None:
    study = preferential()
    params = [study.ask(SPACE).params for _ in range(4)]
    places = np.array([[math.log10(p["x"]), p["n"] / 4] for p in params])
    gaps = np.linalg.norm(places[:, None] - places, axis=2) + 10 * np.eye(4)
    assert gaps.min() > 1.5
    with pytest.raises(CannotCertify, match="at least one trial must be complete"):
        study.sampler.recommend(study)


def test_undo_cycles_ties_and_dangling_trials_do_no_harm() -> None:
    study = with_trials()
    cycle = [Judgement.preferring(*pair) for pair in ((0, 1), (1, 2), (2, 0), (3, 0))]
    for judgement in cycle:
        report(study, judgement)
    take_back(study, cycle[3])
    report(study, Judgement("comparison", (1, 3), (0.5, 0.5)))
    storage = study._storage
    for n, strange in enumerate(([[0, 99]], [[1, 1]], "nonsense", None, [[0]], [[True, 0]], 7)):
        storage.set_study_system_attr(study._study_id, f"preference:values{n}", strange)
    found = answers_of(study).preferences
    assert sorted(found) == [(0, 1, 1), (1, 2, 1), (1, 3, 0.5), (2, 0, 1), (3, 1, 0.5)]
    study.ask(SPACE)
    assert study.sampler.recommend(study) in [t.params for t in study.trials]


def test_undo_forgets_and_reporting_twice_is_once() -> None:
    study = with_trials()
    judgement = Judgement.preferring(2, 1)
    report(study, judgement)
    report(study, judgement)
    assert answers_of(study).preferences == ((2, 1, 1.0),)
    take_back(study, judgement)
    assert answers_of(study).preferences == ()
    assert reported(study) == {judgement.id: []}
    with pytest.raises(CannotCertify):
        study.sampler.recommend(study)  # complete by name, but nothing is known of it
    study.ask(SPACE)


def test_skipped_trials_are_not_judged() -> None:
    study = with_trials()
    report(study, Judgement.preferring(2, 1))
    report(study, Judgement.preferring(2, 0))
    study._storage.set_study_system_attr(
        study._study_id, f"preference:skip_trial:{study.trials[2]._trial_id}", True
    )
    report(study, Judgement.preferring(1, 0))
    assert study.sampler.recommend(study) == study.trials[1].params


@pytest.mark.parametrize("outcomes", [True, False])
def test_answers_count_by_who_gave_them(outcomes: bool) -> None:
    """Two people agree; a third says the opposite, and of one pair again and again."""
    for contrary, best in (("contrary", 3), ("ada", 2)):  # under one name nobody is told apart
        study = with_trials(4)
        for trial in study.trials if outcomes else ():
            found = {"quality": [0.0, 1.0, 2.0, 2.5][trial.number], "other": trial.number == 3}
            study._storage.set_trial_user_attr(trial._trial_id, OUTCOMES, found)
        for j, i in itertools.combinations(range(4), 2):
            report(study, Judgement.preferring(i, j, annotator="ada"))
            report(
                study, Judgement.preferring(i, j, annotator="ben" if contrary != "ada" else "ada")
            )
            report(study, Judgement.preferring(j, i, annotator=contrary))
        for _ in range(6):
            report(study, Judgement.preferring(2, 3, annotator=contrary))
        assert study.sampler.recommend(study) == study.trials[best].params


def test_trials_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="below 4, but got"):
        report(with_trials(), Judgement.preferring(4, 1))


def test_outcomes_grade_trials_that_nobody_compared() -> None:
    study = with_trials(0)
    for k in range(12):
        trial = study.ask(SPACE)
        params = trial.params
        trial.set_user_attr(OUTCOMES, {"accuracy": utility(params), "index": float(k // 2 % 3)})
    best = max(range(2, 12), key=lambda k: study.trials[k].user_attrs[OUTCOMES]["accuracy"])
    low, high = sorted(range(2), key=lambda k: study.trials[k].user_attrs[OUTCOMES]["accuracy"])
    for _ in range(5):
        report(study, Judgement.preferring(high, low))
    assert study.sampler.recommend(study) == study.trials[best].params  # never compared
    assert study.trials[best].state == TrialState.RUNNING


def test_outcomes_that_are_not_finite_or_missing_do_no_harm() -> None:
    study = with_trials(5)
    good = [
        {"a": 1.0, "b": 2.0},
        {"a": 2.0, "b": 1.0},
        {"a": math.nan, "b": 0.0},
        {"a": 3.0, "b": 1},
    ]
    for trial, outcomes in zip(study.trials, good, strict=False):
        study._storage.set_trial_user_attr(trial._trial_id, OUTCOMES, outcomes)
    report(study, Judgement.preferring(1, 0))
    table = outcome_table(study.trials)
    assert np.isnan(table[2]).any()
    assert np.isneginf(table[4]).all()
    assert study.sampler.recommend(study) in (study.trials[1].params, study.trials[3].params)
    assert study.ask(SPACE).params


def test_constraints_outvote_preferences() -> None:
    study = preferential()
    for k in range(3):
        trial = study.ask(SPACE)
        trial.set_constraint("robustness", 0.1 if k == 2 else -0.1)
    report(study, Judgement.preferring(2, 0))
    report(study, Judgement.preferring(2, 1))
    report(study, Judgement.preferring(1, 0))
    assert study.sampler.recommend(study) == study.trials[1].params


def test_a_resumed_study_proposes_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    study = optuna.create_study(storage=url, study_name="s", sampler=DQNSampler(seed=3))
    make_preferential(study)
    compare(study, 6, 0, tmp_path / "log")
    twin = optuna.load_study(storage=url, study_name="s", sampler=DQNSampler(seed=3))
    first = twin.sampler.explain(twin)
    assert study.sampler.explain(study) == first
    assert twin.sampler.recommend(twin) == study.sampler.recommend(study)


@pytest.mark.parametrize("policy", ["dqn", "plan", "no_prior", "random"])
def test_every_policy_plays(policy: str, tmp_path: Path) -> None:
    study = preferential(DQNSampler(seed=0, policy=policy))
    compare(study, 8, 0, tmp_path / "log")
    assert study.sampler.recommend(study) in [t.params for t in study.trials]
    assert len({tuple(t.params.values()) for t in study.trials}) == 9  # none is asked twice


def test_a_study_of_the_dashboard_is_one() -> None:
    preferential_study = pytest.importorskip("optuna_dashboard.preferential")
    study = preferential_study.create_study(n_generate=2, sampler=DQNSampler(seed=0))
    one, other = study.ask(SPACE), study.ask(SPACE)
    assert one.params != other.params
    trials = study.trials
    study.report_preference(trials[1], trials[0])
    inner = study._study
    assert is_preferential(inner)
    assert inner.sampler.recommend(inner) == trials[1].params
    assert study.preferences[0][0].number == 1
    mine = Judgement.preferring(0, 1)
    report(inner, mine)  # ours is read by the dashboard
    assert len(study.preferences) == 2
    take_back(inner, mine)
    assert len(study.preferences) == 1


def test_transitions_of_preferences_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="preferential"):
        transitions(with_trials())
