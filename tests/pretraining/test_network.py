"""The Q-network, trained on simulated studies of recorded tasks."""

import dataclasses
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from rlhf_tune.agents.dqn import forward, initial_weights, layers_of, weights_of
from rlhf_tune.agents.network import Network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.network import _Data, fit, train
from rlhf_tune.pretraining.priors import SHIFTS, Recorded, listed
from rlhf_tune.pretraining.simulation import jobs, simulate
from rlhf_tune.study import dqn_residual

optuna.logging.set_verbosity(optuna.logging.ERROR)


def task(family: str, best: float) -> Recorded:
    rates, sizes = np.linspace(-5, 0.5, 12), np.log10([16.0, 64.0, 256.0])
    surface = np.repeat(-np.minimum(1, 0.3 * (rates - best) ** 2)[:, None], 3, axis=1)
    noise = 0.02 * np.random.default_rng(0).normal(size=(2, *surface.shape))
    return Recorded(family, rates, sizes, surface + noise)


def ignore(what: str, share: float) -> None:
    """Progress that nobody looks at."""


MANY = [task(name, -1.5 - i / 8) for i, name in enumerate("abcdefghijkl")]
TASKS = [task("a", -2.0), task("b", -3.0), task("c", -1.5), task("d", -2.5)]


def test_priors_of_simulated_studies_never_saw_the_family() -> None:
    plan = jobs(TASKS, 0)
    assert len(plan) == 2 * len(TASKS)
    assert {job.shift for job in plan} <= set(SHIFTS)
    for job in plan:
        others = [other for other in TASKS if other.family != job.task.family]
        mine = [other for other in plan if other.prior is job.prior]
        held = {other.task.family for other in mine}
        same = listed([t for t in others if t.family not in held])
        np.testing.assert_allclose(job.prior.surfaces, same.surfaces)


def test_simulated_rewards_are_gains_of_the_true_mean() -> None:
    steps = simulate(jobs(TASKS, 0)[3], None)
    assert len(steps) == 19
    for step in steps:
        assert (step.reward >= 0).all()
        assert step.free[step.taken]
    assert steps[0].reward.max() > steps[-1].reward.max()


def test_features_are_counted_from_the_incumbent_in_training_too() -> None:
    """There the candidates are the whole lattice, whose first cell is a corner."""
    named = dqn_residual.FEATURES.index
    for step in simulate(jobs(TASKS, 0)[3], None):
        (stay,) = np.flatnonzero(step.seen.features[:, named("is stay")])
        for name in dqn_residual.FEATURES:
            if "incumbent" in name:
                assert step.seen.features[stay, named(name)] == 0, name


def test_an_untrained_network_is_expected_improvement() -> None:
    features = len(dqn_residual.FEATURES)
    network = Network(layers_of(initial_weights((2 * features, 8, 2), seed=0)))
    blank = dqn_residual.QMap(np.zeros(features), np.ones(features), network)
    seen = simulate(jobs(TASKS, 0)[0], None)[3].seen
    np.testing.assert_array_equal(blank.q(seen), seen.ei)


def test_training_lowers_the_error_resumes_and_repeats(tmp_path: Path) -> None:
    told: list[str] = []

    def learned(folder: str, rounds: int) -> dqn_residual.QMap:
        return train(
            MANY,
            rounds=rounds,
            seed=1,
            checkpoint=tmp_path / folder,
            processes=1,
            progress=lambda what, share: told.append(what),
        )

    learned("parts", 1)
    parts, whole = learned("parts", 2), learned("whole", 2)
    for mine, theirs in zip(parts.network.layers, whole.network.layers, strict=True):
        for part, tensor in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(part, tensor, rtol=1e-4, atol=1e-6)
    assert {"simulating studies", "learning"} <= set(told)
    steps = [step for job in jobs(MANY, 9) for step in simulate(job, None)]
    error = {
        name: np.mean([((q(s.seen) - s.reward) ** 2).mean() for s in steps])
        for name, q in {
            "ei": lambda seen: seen.ei,
            "rho": lambda seen: seen.ei + _rho(whole, seen),
        }.items()
    }
    assert error["rho"] < error["ei"]


def _rho(network: dqn_residual.QMap, seen: dqn_residual.View) -> np.ndarray:
    """What the network adds to the expected improvement of the next trial."""
    return network.scores(seen)[:, 0]


def test_the_target_is_the_bounded_choice_valued_by_the_target_network() -> None:
    """And nothing at the end of a study."""
    steps = simulate(jobs(TASKS, 0)[1], None)
    online, target = (fit([steps], None, seed=seed, progress=ignore) for seed in (0, 1))
    data = _Data.of(steps, online, [len(steps)])
    weights = [weights_of(qmap.network.layers) for qmap in (online, target)]
    found = data.ahead(*weights, torch.arange(len(steps)))
    assert found[-1] == 0
    for ahead, step in zip(found, steps[1:], strict=False):
        move = np.where(step.free, online.q(step.seen), -np.inf).argmax()
        rho, value = dataclasses.replace(online, network=target.network).scores(step.seen)[move]
        expected = step.seen.ei[move] + rho + dqn_residual.DISCOUNT * value
        assert float(ahead) == pytest.approx(expected, abs=1e-5)


def test_the_numpy_network_equals_the_torch_one() -> None:
    steps = simulate(jobs(TASKS, 0)[1], None)
    network = fit([steps], None, seed=0, progress=ignore)
    seen = steps[4].seen
    x = dqn_residual.inputs(network.normalised(seen.features), seen.ei).astype(np.float32)
    with torch.no_grad():
        scores = forward(weights_of(network.network.layers), torch.from_numpy(x)).numpy()
    residual = scores[:, 0] + dqn_residual.DISCOUNT * scores[:, 1]
    apart, bound = residual - residual[seen.ei.argmax()], dqn_residual.BOUND * seen.ei.max()
    expected = seen.ei + np.clip(apart, -bound, bound)
    np.testing.assert_allclose(network.q(seen), expected, atol=1e-5)
    assert np.abs(expected - seen.ei).max() > 0


def test_a_file_without_a_network_is_refused(tmp_path: Path) -> None:
    from rlhf_tune.study.prior import FLAT, save

    save({"performance": FLAT}, tmp_path / "p.safetensors", {})
    with pytest.raises(InvalidInputError, match="lacks"):
        dqn_residual.load_qmap(tmp_path / "p.safetensors")
