"""All state of `DQNSampler` is in the storage: studies go on, and workers share."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rlhf_tune import DQNSampler
from tests.study.bowl import BATCH, LR, loss, objective, params, study, with_constraint


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


def test_a_resumed_study_under_constraints_equals_an_uninterrupted_one() -> None:
    whole, parts = study(seed=5), study(seed=5)
    whole.optimize(with_constraint, n_trials=12)
    parts.optimize(with_constraint, n_trials=5)
    parts.sampler = pickle.loads(pickle.dumps(DQNSampler(seed=5)))
    parts.optimize(with_constraint, n_trials=7)
    assert params(parts) == params(whole)


def test_a_pickled_study_goes_on_as_the_original() -> None:
    s = study(seed=2)
    s.optimize(objective, n_trials=5)
    copy = pickle.loads(pickle.dumps(s))
    for each in (s, copy):
        each.optimize(objective, n_trials=3)
    assert params(copy) == params(s)


@pytest.mark.parametrize("policy", ["default", "plan", "random", "no_prior"])
def test_a_sampler_of_any_policy_can_be_pickled(policy: str) -> None:
    s, copy = study(policy=policy, seed=3), study(policy=policy, seed=3)
    copy.sampler = pickle.loads(pickle.dumps(copy.sampler))
    for each in (s, copy):
        each.optimize(objective, n_trials=3)
    assert params(s) == params(copy)


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


@pytest.mark.filterwarnings("ignore:the study ends here")
@pytest.mark.parametrize("constrained", [False, True])
def test_what_runs_elsewhere_is_not_repeated(constrained: bool) -> None:
    space = {"lr": LR, "batch_size": BATCH}
    s = study()
    rng = np.random.default_rng(0)
    running: list[optuna.Trial] = []
    repeats = 0
    for number in range(80):  # eight workers, with noise
        trial = s.ask(space)
        repeats += trial.params in [other.params for other in running]
        running.append(trial)
        if len(running) == 8:
            done = running.pop(number % 8)
            if constrained:
                done.set_constraint("size", done.params["batch_size"] - 100.0)
            value = loss(done.params["lr"], done.params["batch_size"])
            s.tell(done, value + 0.3 * rng.normal())
    assert repeats == 0


def test_many_threads() -> None:
    s = study()
    s.optimize(objective, n_trials=16, n_jobs=4)
    assert [t.state for t in s.trials] == [TrialState.COMPLETE] * 16


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
