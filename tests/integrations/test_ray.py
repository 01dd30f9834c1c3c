"""Ray Tune: real actors on two CPUs, without a dashboard."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

pytest.importorskip("ray", reason="pip install 'rlhf-tune[ray]'")

from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.errors import InvalidInputError
from rlhf_tune_integrations.ray import Search, costs

# Ray's own imports, sockets and child processes warn; nothing of it is ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SPACE = {"lr": FloatDistribution(1e-5, 1e-1, log=True)}


def search(**arguments):
    given = {"sampler": DQNSampler(seed=0), "metric": "loss", "mode": "min", **arguments}
    return Search(SPACE, **given)


def played(found, cost):
    """Eight trials as Ray would play them."""
    for number in range(8):
        name = f"t{number}"
        lr = found.suggest(name)["lr"]
        found.on_trial_complete(name, {"loss": abs(np.log10(lr) + 2), **cost(lr)})
    return found


@pytest.mark.parametrize(
    "shape",
    [lambda c: {"constraints": {"rate": c}}, lambda c: {"constraints/rate": c}],
    ids=["nested", "flattened"],
)
def test_costs_reach_the_study_and_its_recommendation(shape):
    found = played(search(), lambda lr: shape(np.log10(lr) + 2.5))
    assert all("rate" in t.constraints for t in found.study.trials)
    assert found.recommend()["lr"] <= 10**-2.5
    assert found.study.best_params["lr"] <= 10**-2.5 or not found.study.best_trial.constraints


def test_nothing_feasible_is_said():
    with pytest.raises(CannotCertify, match="rate"):
        played(search(), lambda lr: {"constraints/rate": 1.0}).recommend()


def test_a_trial_that_fails_has_no_costs():
    found = search()
    found.suggest("a")
    found.on_trial_complete("a", None, error=True)
    assert found.study.trials[0].state == optuna.trial.TrialState.FAIL


def test_wrong_uses_are_refused():
    with pytest.raises(InvalidInputError, match="run the tuner first"):
        _ = Search(metric="loss", mode="min").study
    with pytest.raises(InvalidInputError, match="but got RandomSampler"):
        played(search(sampler=RandomSampler()), lambda lr: {}).recommend()
    with pytest.raises(InvalidInputError, match="must be a number, but got rate='much'"):
        list(costs({"constraints": {"rate": "much"}}))


@pytest.fixture
def local(monkeypatch):
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, f"{root}/integrations", f"{root}/tests/integrations"])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


def trainable(config):
    from ray import tune

    lr = config["lr"]
    tune.report({"loss": abs(np.log10(lr) + 2), "constraints": {"rate": np.log10(lr) + 2.5}})


def tuned(function, folder, found=None, samples=1, failures=0, space=None):
    from ray import tune

    return tune.Tuner(
        function,
        param_space=space,
        tune_config=tune.TuneConfig(search_alg=found, num_samples=samples, max_concurrent_trials=2),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=failures),
        ),
    ).fit()


@pytest.mark.slow
def test_a_study_under_a_constraint_on_real_actors(local, tmp_path):
    found = search()
    results = tuned(trainable, tmp_path, found, samples=12)
    assert len(results) == 12
    assert not results.errors
    trials = found.study.trials
    assert [t.state for t in trials] == [optuna.trial.TrialState.COMPLETE] * 12
    assert all(list(t.constraints) == ["rate"] for t in trials)
    assert len({t.params["lr"] for t in trials}) > 8
    assert found.recommend()["lr"] <= 10**-2.5


def run_in_trial(config):
    """A guarded run inside a trial; it is killed once, after some writes of its checkpoint."""
    from killed import entries
    from ray import tune
    from test_torch_checkpoint import everything, run

    from rlhf_tune.run.checkpoints import Shelf

    folder = Path(config["folder"])
    write, count = Shelf.write, [0]

    def deadly(self, state):
        write(self, state)
        count[0] += 1
        if count[0] == config["kill_after"] and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Shelf.write = deadly
    model, optimizer, history = run(folder / "run")
    digest = hashlib.sha256(b"".join(a.tobytes() for a in everything(model, optimizer)))
    tune.report({"digest": digest.hexdigest(), "history": repr(entries(history))})


@pytest.mark.slow
def test_a_killed_actor_goes_on_with_its_run_bit_for_bit(local, tmp_path):
    found = {}
    for name, kill_after in (("whole", 0), ("killed", 3)):
        (tmp_path / name).mkdir()
        space = {"folder": str(tmp_path / name), "kill_after": kill_after}
        [result] = tuned(run_in_trial, tmp_path / "ray", failures=1, space=space)
        found[name] = result.metrics["digest"], result.metrics["history"]
    assert (tmp_path / "killed" / "killed").exists()
    assert not (tmp_path / "whole" / "killed").exists()
    assert found["whole"] == found["killed"]


@pytest.mark.slow
def test_the_example():
    pytest.importorskip("sklearn")
    pytest.importorskip("cleverhans")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "examples/ray_tune.py", "--trials", "3", "--epochs", "4"],
        cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/integrations", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "use {" in done.stdout
