"""`DQNSampler` beyond Optuna's conformance suite."""

import math
import multiprocessing
import pickle
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.errors import InvalidInputError

optuna.logging.set_verbosity(optuna.logging.ERROR)

LR = FloatDistribution(1e-5, 1e-1, log=True)
BATCH = IntDistribution(16, 512, log=True)


def loss(lr: float, batch: int) -> float:
    """A bowl with its optimum at learning rate 1e-2, batch size 128."""
    return (math.log10(lr) + 2) ** 2 + 0.1 * (math.log2(batch) - 7) ** 2


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    return loss(lr, trial.suggest_int("batch_size", 16, 512, log=True))


def study(seed: int = 0, **kwargs: object) -> optuna.Study:
    return optuna.create_study(sampler=DQNSampler(seed=seed, **kwargs))


def params(study: optuna.Study) -> list[dict[str, object]]:
    return [t.params for t in study.trials]


def test_starts_at_the_default_point() -> None:
    s = study()
    s.optimize(objective, n_trials=1)
    assert s.trials[0].params == {"lr": 1e-3, "batch_size": 32}


def test_starts_where_told() -> None:
    s = study(start={"lr": 0.02, "batch_size": 100})
    s.optimize(objective, n_trials=1)
    assert s.trials[0].params == {"lr": 0.02, "batch_size": 100}


def test_other_parameters_start_mid_range_and_clipped_to_it() -> None:
    def f(trial: optuna.Trial) -> float:
        trial.suggest_float("momentum", 0, 1)
        trial.suggest_float("lr", 1e-6, 1e-4, log=True)
        trial.suggest_categorical("batch_size", [64, 256, 128])
        return 0.0

    s = study()
    s.optimize(f, n_trials=1)
    assert s.trials[0].params == {"momentum": 0.5, "lr": 1e-4, "batch_size": 64}


def test_finds_the_optimum_of_a_bowl_within_forty_trials() -> None:
    s = study(seed=3)
    s.optimize(objective, n_trials=40)
    assert s.best_value < 0.1 < loss(1e-3, 32)


def test_points_are_not_repeated_except_by_staying() -> None:
    s = study()
    s.optimize(objective, n_trials=40)
    seen: dict[tuple[object, ...], float] = {}
    best = math.inf
    for t in s.trials:
        point = tuple(t.params.values())
        assert point not in seen or seen[point] == best
        seen[point] = t.value
        best = min(best, t.value)


def test_an_exhausted_lattice_means_stay() -> None:
    s = study(policy="random")
    s.optimize(lambda t: (t.suggest_int("x", 0, 4) - 1) ** 2, n_trials=20)
    visited = [t.params["x"] for t in s.trials]
    assert set(visited) == set(range(5))
    last_new = max(visited.index(x) for x in range(5))
    assert visited[last_new + 1 :] == [1] * (19 - last_new)


def run(path: str, n: int) -> None:
    s = optuna.load_study(study_name="s", storage=path, sampler=DQNSampler(seed=5, budget=12))
    s.optimize(objective, n_trials=n)


def test_resumed_in_three_processes_equals_uninterrupted(tmp_path: Path) -> None:
    paths = [f"sqlite:///{tmp_path}/{name}.db" for name in ("parts", "whole")]
    for path in paths:
        optuna.create_study(study_name="s", storage=path)
    for n in (4, 5, 3):
        process = multiprocessing.get_context("spawn").Process(target=run, args=(paths[0], n))
        process.start()
        process.join()
        assert process.exitcode == 0
    run(paths[1], 12)
    parts, whole = (optuna.load_study(study_name="s", storage=p) for p in paths)
    assert params(parts) == params(whole)
    assert len(whole.trials) == 12


def test_two_workers_with_one_seed_do_not_repeat_each_other() -> None:
    s = study(seed=1)
    other = optuna.load_study(
        study_name=s.study_name, storage=s._storage, sampler=DQNSampler(seed=1)
    )
    for _ in range(8):
        pair = [w.ask({"lr": LR, "batch_size": BATCH}) for w in (s, other)]
        for t in pair:
            s.tell(t, loss(t.params["lr"], t.params["batch_size"]))
    points = [tuple(p.values()) for p in params(s)]
    repeated = len(points) - len(set(points))
    stays = sum(points[i] == tuple(s_best(s, i - i % 2).values()) for i in range(2, len(points)))
    assert repeated <= stays
    assert repeated <= 5


def s_best(s: optuna.Study, n: int) -> dict[str, object]:
    return min(s.trials[:n], key=lambda t: t.value).params


def test_batch_ask_gives_different_points() -> None:
    s = study()
    s.tell(s.ask({"lr": LR, "batch_size": BATCH}), 1.0)
    asked = [s.ask({"lr": LR, "batch_size": BATCH}) for _ in range(8)]
    incumbent = s.trials[0].params
    moved = [tuple(t.params.values()) for t in asked if t.params != incumbent]
    assert len(moved) == len(set(moved)) >= 6


def test_a_first_batch_goes_to_neighbours_of_the_start() -> None:
    s = study()
    points = [s.ask({"lr": LR, "batch_size": BATCH}).params for _ in range(4)]
    assert points[0] == {"lr": 1e-3, "batch_size": 32}
    for p in points[1:]:
        assert p != points[0]
        assert 0 < abs(math.log10(p["lr"]) + 3) <= 1.05


def test_stale_running_trials_do_not_block_for_ever() -> None:
    space = {"x": IntDistribution(0, 1)}
    s = study()
    s.tell(s.ask(space), 5.0)
    lost = s.ask(space)
    while lost.params == s.trials[0].params:  # the first ask may stay
        s.tell(lost, 5.0)
        lost = s.ask(space)
    visited = set()
    for _ in range(40):
        t = s.ask(space)
        visited.add((t.number - lost.number > 31, t.params["x"] == lost.params["x"]))
        s.tell(t, 5.0)
    assert (False, True) not in visited
    assert (True, True) in visited


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    s = study()
    s.optimize(lambda t: objective(t) + (bad if t.number % 3 == 1 else 0), n_trials=12)
    assert len(s.trials) == 12
    assert all(t.state.is_finished() for t in s.trials)
    assert s.sampler.recommend(s).keys() == {"lr", "batch_size"}


def test_failed_and_pruned_trials_count_as_tried() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.number % 4 == 1:
            raise RuntimeError("out of memory")
        if trial.number % 4 == 2:
            raise optuna.TrialPruned
        if trial.number % 4 == 3:
            trial.report(value, 1)
            raise optuna.TrialPruned
        return value

    s = study()
    s.optimize(f, n_trials=24, catch=(RuntimeError,))
    complete = {tuple(t.params.values()) for t in s.get_trials(states=(TrialState.COMPLETE,))}
    lost = [tuple(t.params.values()) for t in s.trials if t.state != TrialState.COMPLETE]
    new = [point for point in lost if point not in complete]  # "stay" may be repeated
    assert len(lost) == 18
    assert len(new) == len(set(new)) >= 15


def test_a_start_that_always_fails_is_left() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        return value if trial.params["lr"] < 1e-4 else math.nan

    s = study()
    s.optimize(f, n_trials=40)
    assert any(t.state == TrialState.COMPLETE for t in s.trials)


def test_hyperband() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        for step in range(9):
            trial.report(value + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    s = optuna.create_study(
        sampler=DQNSampler(seed=0), pruner=optuna.pruners.HyperbandPruner(max_resource=9)
    )
    s.optimize(f, n_trials=20)
    assert len(s.trials) == 20
    assert s.sampler.recommend(s)


def test_many_threads() -> None:
    s = study()
    s.optimize(objective, n_trials=16, n_jobs=4)
    assert [t.state for t in s.trials] == [TrialState.COMPLETE] * 16


@pytest.mark.parametrize("policy", ["default", "plan", "random", "no_prior"])
def test_a_sampler_of_any_policy_can_be_pickled(policy: str) -> None:
    s, copy = study(policy=policy, seed=3), study(policy=policy, seed=3)
    copy.sampler = pickle.loads(pickle.dumps(copy.sampler))
    for each in (s, copy):
        each.optimize(objective, n_trials=3)
    assert params(s) == params(copy)


def test_a_pickled_study_goes_on_as_the_original() -> None:
    s = study(seed=2)
    s.optimize(objective, n_trials=5)
    copy = pickle.loads(pickle.dumps(s))
    for each in (s, copy):
        each.optimize(objective, n_trials=3)
    assert params(copy) == params(s)


def test_an_enqueued_value_out_of_range_is_kept_and_projected() -> None:
    s = study()
    s.enqueue_trial({"lr": 0.5, "batch_size": 32})
    with pytest.warns(UserWarning, match="out of range"):
        s.optimize(objective, n_trials=1)
    s.optimize(objective, n_trials=6)
    assert s.trials[0].params["lr"] == 0.5
    assert all(1e-5 <= t.params["lr"] <= 1e-1 for t in s.trials[1:])


def test_an_enqueued_trial_is_the_start_of_a_batch() -> None:
    s = study()
    s.enqueue_trial({"lr": 1e-5, "batch_size": 512})
    points = [s.ask({"lr": LR, "batch_size": BATCH}).params for _ in range(3)]
    assert points[0] == {"lr": 1e-5, "batch_size": 512}
    assert all(p["lr"] < 1e-4 and p["batch_size"] < 512 for p in points[1:])


def test_added_trials_are_experience() -> None:
    s = study()
    for lr in (1e-2, 1e-4):
        s.add_trial(
            create_trial(
                params={"lr": lr, "batch_size": 128},
                distributions={"lr": LR, "batch_size": BATCH},
                value=loss(lr, 128),
            )
        )
    first = s.ask({"lr": LR, "batch_size": BATCH})
    assert first.params != {"lr": 1e-3, "batch_size": 32}
    assert s.sampler.explain(s)[0].params.keys() == {"lr", "batch_size"}
    assert s.sampler.recommend(s) == {"lr": 1e-2, "batch_size": 128}


def test_another_sampler_object_may_tell() -> None:
    s = study(seed=4)
    other = optuna.load_study(
        study_name=s.study_name, storage=s._storage, sampler=DQNSampler(seed=9)
    )
    reference = study(seed=4)
    for _ in range(6):
        asked = [each.ask({"lr": LR, "batch_size": BATCH}) for each in (s, reference)]
        values = [loss(t.params["lr"], t.params["batch_size"]) for t in asked]
        other.tell(asked[0].number, values[0])
        reference.tell(asked[1], values[1])
    assert params(s) == params(reference)


def test_a_dynamic_range_keeps_its_parameter() -> None:
    s = study()
    s.optimize(lambda t: (t.suggest_float("x", 0, 10) - 4) ** 2, n_trials=10)
    s.optimize(lambda t: (t.suggest_float("x", 0, 5) - 4) ** 2, n_trials=10)
    assert all(t.params["x"] <= 5 for t in s.trials[10:])
    assert min(t.value for t in s.trials) < 0.3


def test_conditional_and_unordered_parameters() -> None:
    def f(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            return abs(math.log10(lr) + 1) + trial.suggest_float("momentum", 0, 1)
        return abs(math.log10(lr) + 3) + 0.1 * trial.suggest_int("warmup", 0, 5)

    s = study()
    s.optimize(f, n_trials=25)
    assert {t.params["optimizer"] for t in s.trials} == {"adam", "sgd"}
    assert s.sampler.recommend(s)["optimizer"] in {"adam", "sgd"}
    assert all(c.params.keys() == {"lr"} for c in s.sampler.explain(s))


def test_only_unordered_parameters() -> None:
    s = study()
    s.optimize(lambda t: float(t.suggest_categorical("a", ["x", "y"]) == "x"), n_trials=8)
    assert s.sampler.recommend(s) == {"a": "y"}


def test_the_independent_sampler_is_the_users() -> None:
    class Last(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):  # type: ignore[no-untyped-def]
            return param_distribution.choices[-1]

    s = study(independent_sampler=Last())
    s.optimize(lambda t: float(t.suggest_categorical("a", ["x", "y", "z"]) == "x"), n_trials=3)
    assert [t.params["a"] for t in s.trials] == ["z"] * 3


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_storages(tmp_path: Path, kind: str) -> None:
    storage = (
        f"sqlite:///{tmp_path}/s.db"
        if kind == "sqlite"
        else JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    )
    s = optuna.create_study(storage=storage, sampler=DQNSampler(seed=0))
    s.optimize(objective, n_trials=5)
    memory = study(seed=0)
    memory.optimize(objective, n_trials=5)
    assert params(s) == params(memory)


def test_many_parameters() -> None:
    def f(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(f"x{i}", 0, 1) - 0.3) ** 2 for i in range(12))

    s = study()
    s.optimize(f, n_trials=30)
    assert s.best_value < s.trials[0].value


def test_the_random_stream_of_the_user_is_left_alone() -> None:
    torch = pytest.importorskip("torch")
    s = study()
    s.optimize(objective, n_trials=3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    s.optimize(objective, n_trials=3)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_the_thread_settings_of_the_user_are_left_alone() -> None:
    torch = pytest.importorskip("torch")
    from threadpoolctl import threadpool_info

    s = study(policy="dqn")
    s.optimize(objective, n_trials=2)
    before = torch.get_num_threads(), [(i["filepath"], i["num_threads"]) for i in threadpool_info()]
    s.optimize(objective, n_trials=8, n_jobs=4)
    assert before == (
        torch.get_num_threads(),
        [(i["filepath"], i["num_threads"]) for i in threadpool_info()],
    )


# Constraints


def with_constraint(trial: optuna.Trial) -> float:
    """Rates above 3e-3 are unsafe, though the optimum lies at 1e-2."""
    value = objective(trial)
    trial.set_constraint("robustness", 0.2 * (math.log10(trial.params["lr"]) + 2.5))
    return value


def test_the_recommendation_is_feasible_and_fewer_trials_are_unsafe() -> None:
    unsafe = {}
    for confidence in (0.0, 0.5):
        s = study(seed=1, confidence=confidence, price=None)
        s.optimize(with_constraint, n_trials=25)
        unsafe[confidence] = sum(t.constraints["robustness"] > 0 for t in s.trials)
        assert s.sampler.recommend(s)["lr"] < 3.3e-3
    assert unsafe[0.5] < unsafe[0.0]


def test_an_unchecked_trial_is_never_recommended() -> None:
    s = study()
    s.add_trial(
        create_trial(
            params={"lr": 1e-2, "batch_size": 128},
            distributions={"lr": LR, "batch_size": BATCH},
            value=0.0,
        )
    )
    s.optimize(with_constraint, n_trials=5)
    assert s.best_trial.number == 0  # Optuna fails open
    assert s.sampler.recommend(s) != s.trials[0].params


def test_a_constraint_seen_once_is_required_of_all() -> None:
    s = study()
    s.optimize(with_constraint, n_trials=4)

    def second(trial: optuna.Trial) -> float:
        value = with_constraint(trial)
        trial.set_constraint("leakage", -1.0)
        return value + 10

    s.enqueue_trial({"lr": 1e-4, "batch_size": 32})
    s.optimize(second, n_trials=1)
    assert s.sampler.recommend(s) == s.trials[4].params


def test_an_untrusted_measurement_is_not_feasible() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_constraint("robustness", math.inf if trial.number % 2 else -0.1)
        return value - 100 * (trial.number % 2)

    s = study()
    s.optimize(f, n_trials=8)
    recommended = s.sampler.recommend(s)
    assert recommended in [t.params for t in s.trials if t.number % 2 == 0]


def test_nothing_feasible_cannot_be_certified() -> None:
    def f(trial: optuna.Trial) -> float:
        trial.set_constraint("robustness", 0.3)
        return objective(trial)

    s = study()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        s.optimize(f, n_trials=20)
    assert len(s.trials) < 20
    with pytest.raises(CannotCertify, match="robustness") as caught:
        s.sampler.recommend(s)
    message = str(caught.value)
    assert f"of {len(s.trials)} complete trials 0 were not fully checked" in message
    assert "number 0 at {'lr': 0.001, 'batch_size': 32}, exceeds its bound by 0.3" in message
    assert "start from a safe point, lower the threshold, or measure with more" in message


def test_an_unsafe_start_is_left_for_a_safe_point() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_constraint("robustness", 0.3 * (math.log10(trial.params["lr"]) + 3.5))
        return value

    s = study(seed=2)
    s.optimize(f, n_trials=20)
    assert s.trials[0].constraints["robustness"] > 0
    assert s.sampler.recommend(s)["lr"] < 10**-3.5


def test_a_higher_price_takes_less_risk() -> None:
    unsafe = []
    for price in (0.0, 0.1, 1.0):
        studies = [study(seed=seed, price=price, confidence=0) for seed in range(3)]
        for s in studies:
            s.optimize(with_constraint, n_trials=20)
        unsafe.append(sum(t.constraints["robustness"] > 0 for s in studies for t in s.trials))
    assert unsafe[0] > unsafe[1] >= unsafe[2]


def test_beside_a_lone_safe_point_it_mostly_stays() -> None:
    def f(trial: optuna.Trial) -> float:  # the start just keeps the bound, nothing else does
        value = objective(trial)
        default = trial.params == {"lr": 1e-3, "batch_size": 32}
        trial.set_constraint("robustness", -0.01 if default else 0.3)
        return value

    s = study()
    s.optimize(f, n_trials=30)
    violations = [t.constraints["robustness"] > 0 for t in s.trials]
    assert sum(violations) < 10
    assert s.sampler.recommend(s) == {"lr": 1e-3, "batch_size": 32}


def test_predicted_and_observed_risk(caplog: pytest.LogCaptureFixture) -> None:
    s = study(seed=1)
    with caplog.at_level("INFO", logger="rlhf_tune"):
        s.optimize(with_constraint, n_trials=8)
    risk = s.sampler.risk(s)
    unsafe = [t.constraints["robustness"] > 0 for t in s.trials[1:]]
    assert risk.observed == sum(unsafe)
    assert 0 < risk.predicted < 8
    assert sum("predicted" in record.message for record in caplog.records) == 8
    fresh = DQNSampler(seed=99).risk(s)  # a function of the trials
    np.testing.assert_array_equal(fresh.p_safe, risk.p_safe)


def test_a_resumed_study_under_constraints_equals_an_uninterrupted_one() -> None:
    whole, parts = study(seed=5), study(seed=5)
    whole.optimize(with_constraint, n_trials=12)
    parts.optimize(with_constraint, n_trials=5)
    parts.sampler = pickle.loads(pickle.dumps(DQNSampler(seed=5)))
    parts.optimize(with_constraint, n_trials=7)
    assert params(parts) == params(whole)


def test_a_spent_unsafe_budget_ends_the_study() -> None:
    def f(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.set_constraint("robustness", -0.1 if trial.number == 0 else 0.1)
        return value

    s = study(max_unsafe=2)
    with pytest.warns(UserWarning, match="max_unsafe"):
        s.optimize(f, n_trials=30)
    violations = [t.constraints["robustness"] > 0 for t in s.trials]
    assert sum(violations[:-1]) == 2
    assert s.trials[-1].params == s.trials[0].params


def test_no_trial_to_recommend() -> None:
    s = study()
    with pytest.raises(CannotCertify, match="run the study first"):
        s.sampler.recommend(s)
    assert s.sampler.explain(s) == []


def test_explain_says_why_a_move_is_masked() -> None:
    s = study(seed=1, confidence=0.5, price=1.0)
    s.optimize(with_constraint, n_trials=8)
    moves = s.sampler.explain(s)
    assert {m.why for m in moves} == {"", "taken", "predicted unsafe", "not worth its risk"}
    assert all(m.masked == bool(m.why) for m in moves)
    assert [m.q for m in moves if not m.masked] == sorted(
        (m.q for m in moves if not m.masked), reverse=True
    )
    unsafe = [m for m in moves if m.why == "predicted unsafe"]
    assert all(m.p_safe < 0.5 for m in unsafe)
    assert all(m.q < 0 for m in moves if m.why == "not worth its risk")


def test_explain_shows_prior_and_data_apart() -> None:
    s = study(seed=1)
    s.optimize(objective, n_trials=8)
    moves = s.sampler.explain(s)
    assert any(abs(m.prior - m.mean) > m.deviation for m in moves)
    here = min(moves, key=lambda m: abs(m.prior - m.mean))  # counted from the incumbent
    assert here.prior == pytest.approx(here.mean, abs=0.05)
    blind = study(seed=1, policy="no_prior")
    blind.optimize(objective, n_trials=8)
    assert len({round(m.prior, 9) for m in blind.sampler.explain(blind)}) == 1


def test_the_recommendation_is_not_the_luckiest_trial() -> None:
    s = study()
    rng = np.random.default_rng(0)
    space = {"lr": LR, "batch_size": BATCH}
    for lr in np.geomspace(1e-5, 1e-1, 33):
        noise = -1.2 if abs(math.log10(lr) + 4) < 0.05 else 0.05 * rng.normal()
        value = 0.5 * abs(math.log10(lr) + 2) + noise
        s.add_trial(
            create_trial(
                params={"lr": float(lr), "batch_size": 64}, distributions=space, value=value
            )
        )
    assert abs(math.log10(s.best_params["lr"]) + 4) < 0.05
    assert abs(math.log10(s.sampler.recommend(s)["lr"]) + 2) < 0.5


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": {"lr": "speed"}}, "a role must be one of"),
        ({"policy": "magic"}, "`policy` must be one of"),
        ({"budget": 0}, "`budget` must be at least 1"),
        ({"confidence": 1.5}, r"`confidence` must be within \[0, 1\)"),
        ({"max_unsafe": -1}, "`max_unsafe` must not be negative"),
        ({"price": -0.1}, "`price` must not be negative"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DQNSampler(**arguments)


def test_a_batch_size_must_be_an_integer() -> None:
    s = study()
    with pytest.raises(InvalidInputError, match="a batch size must be an integer"):
        s.optimize(lambda t: t.suggest_float("batch_size", 16, 512), n_trials=1)
    s = study(roles={"batch_size": "other"})
    s.optimize(lambda t: t.suggest_float("batch_size", 16, 512), n_trials=2)
    assert len(s.trials) == 2


def test_a_start_out_of_range() -> None:
    s = study(start={"lr": 7.0})
    with pytest.raises(InvalidInputError, match=r"`start` must lie within the range"):
        s.optimize(objective, n_trials=1)


def test_a_misspelt_name_is_noticed() -> None:
    s = study(roles={"lrr": "learning_rate"})
    with pytest.warns(UserWarning, match="lrr"):
        s.optimize(objective, n_trials=1)


def test_numeric_choices_are_ordered_and_others_are_not() -> None:
    from rlhf_tune.study.space import is_ordered

    assert is_ordered(CategoricalDistribution([64, 16, 32]))
    assert not is_ordered(CategoricalDistribution(["a", "b"]))
    assert not is_ordered(CategoricalDistribution([True, False]))
    assert not is_ordered(CategoricalDistribution([1, math.inf]))
