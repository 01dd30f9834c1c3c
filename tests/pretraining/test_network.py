"""The Q-network, trained on simulated studies of recorded tasks."""

import dataclasses
from pathlib import Path

import numpy as np
import optuna
import pytest

torch = pytest.importorskip("torch")

from rlhf_tune.agents.dqn import forward, initial_weights, layers_of, weights_of
from rlhf_tune.agents.network import Network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.network import _Data, _member, fit, train
from rlhf_tune.pretraining.priors import SHIFTS, Recorded, listed
from rlhf_tune.pretraining.problems import Drawn, Moved, drawn
from rlhf_tune.pretraining.simulation import TRIALS, Step, jobs, simulate
from rlhf_tune.study import dqn_residual, space

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
    plan = [job for job in jobs(TASKS, 0) if isinstance(job.problem, Moved)]
    assert len(plan) == len(TASKS)
    assert {job.problem.shift for job in plan} <= set(SHIFTS)
    for job in plan:
        others = [other for other in TASKS if other.family != job.problem.task.family]
        mine = [other for other in plan if other.prior is job.prior]
        held = {other.problem.task.family for other in mine}
        same = listed([t for t in others if t.family not in held])
        np.testing.assert_allclose(job.prior.surfaces, same.surfaces)


def test_studies_are_simulated_on_spaces_of_many_kinds() -> None:
    surfaces = [drawn(np.random.default_rng(seed)) for seed in range(60)]
    assert {len(surface.space) for surface in surfaces} == set(range(1, 9))
    for surface in surfaces[:20]:
        lattice = space.lattice(surface.space, {})
        some = np.random.default_rng(1).integers(
            np.array(lattice.shape), size=(400, len(lattice.axes))
        )
        true = surface.true(lattice.positions(some))
        assert -3 < true.min() < -0.5
        assert -1 < true.max() < 0.5
        measured = [
            surface.measured(lattice.positions(some[:1]), np.random.default_rng(seed))
            for seed in range(400)
        ]
        assert np.mean(measured) == pytest.approx(true[0], abs=4 * surface.noise / 20)
        assert np.std(measured) == pytest.approx(surface.noise, rel=0.2)


def played(number: int = 0) -> list[Step]:
    return simulate(jobs(MANY, 0)[number], None)


def test_simulated_rewards_are_gains_of_the_true_mean() -> None:
    steps = played()
    assert len(steps) == TRIALS - 1
    for step in steps:
        assert (step.reward >= 0).all()
        assert step.free[step.taken]
    assert steps[0].reward.max() > steps[-1].reward.max()


def test_every_simulated_study_can_be_played_again() -> None:
    every = jobs(MANY, 3)
    assert any(isinstance(job.problem, Drawn) for job in every)
    for job in every[:2] + every[-2:]:
        for one, other in zip(simulate(job, None), simulate(job, None), strict=True):
            np.testing.assert_array_equal(one.seen.features, other.seen.features)
            np.testing.assert_array_equal(one.reward, other.reward)


def test_features_are_counted_from_the_incumbent_in_training_too() -> None:
    named, seen = dqn_residual.FEATURES.index, 0
    for step in played():
        stays = step.seen.features[step.seen.features[:, named("is stay")] == 1]
        seen += len(stays)
        for name in dqn_residual.FEATURES:
            if "incumbent" in name:
                assert (stays[:, named(name)] == 0).all(), name
    assert seen


def test_an_untrained_network_is_expected_improvement() -> None:
    features = len(dqn_residual.FEATURES)
    layers = layers_of(initial_weights((2 * features, 8, 2), seed=0))
    network = Network([(weight[None], bias[None, None]) for weight, bias in layers])
    blank = dqn_residual.QMap(np.zeros(features), np.ones(features), network)
    seen = played()[3].seen
    np.testing.assert_array_equal(blank.q(seen), seen.ei)


@pytest.mark.slow
def test_training_lowers_the_error_resumes_and_repeats(tmp_path: Path) -> None:
    told: list[str] = []

    def learned(folder: str, rounds: int) -> dqn_residual.QMap:
        return train(
            MANY,
            rounds=rounds,
            networks=2,
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
    return network.scores(seen)[..., 0].mean(axis=0)


@pytest.mark.parametrize("counts", [{"rounds": 0, "networks": 1}, {"rounds": 1, "networks": 0}])
def test_there_must_be_something_to_train(counts: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="must be at least 1, but got 0"):
        train(MANY, **counts, seed=0, checkpoint=tmp_path, processes=1, progress=ignore)


def test_another_move_is_taken_only_where_every_network_would_make_it() -> None:
    steps = played()
    ensemble = fit([steps], ["a"], None, networks=3, seed=0, progress=ignore)
    agreed = 0
    for step in steps:
        ei, each = step.seen.ei, ensemble.each(step.seen)
        moves = {int(np.where(step.free, q, -np.inf).argmax()) for q in each}
        q = ensemble.q(step.seen)
        if len(moves) > 1:
            np.testing.assert_array_equal(q, ei)
        else:
            assert q[ei.argmax()] == ei.max()
            assert (q <= each).all()
            agreed += moves != {int(ei.argmax())}
    assert agreed


def test_the_target_is_the_bounded_choice_valued_by_the_target_network() -> None:
    """And nothing at the end of a study."""
    steps = played()
    online, target = (
        fit([steps], ["a"], None, networks=1, seed=seed, progress=ignore) for seed in (0, 1)
    )
    data = _Data.of(steps, online, [len(steps)])
    weights = [weights_of(_member(qmap.network, 0)) for qmap in (online, target)]
    found = data.ahead(*weights, torch.arange(len(steps)))
    assert found[-1] == 0
    for ahead, step in zip(found, steps[1:], strict=False):
        move = np.where(step.free, online.q(step.seen), -np.inf).argmax()
        rho, value = dataclasses.replace(online, network=target.network).scores(step.seen)[0, move]
        expected = step.seen.ei[move] + rho + dqn_residual.DISCOUNT * value
        assert float(ahead) == pytest.approx(expected, abs=1e-5)


def test_the_numpy_network_equals_the_torch_one() -> None:
    steps = played()
    network = fit([steps], ["a"], None, networks=1, seed=0, progress=ignore)
    seen = steps[4].seen
    x = dqn_residual.inputs(network.normalised(seen.features), seen.ei).astype(np.float32)
    with torch.no_grad():
        scores = forward(weights_of(_member(network.network, 0)), torch.from_numpy(x)).numpy()
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


def test_the_single_network_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    layers = layers_of(initial_weights((24, 8, 2), seed=0))
    old = dqn_residual.QMap(np.zeros(12), np.ones(12), Network(layers))
    dqn_residual.save_qmap(old, tmp_path / "q.safetensors", {})
    with pytest.raises(InvalidInputError, match="train them again"):
        dqn_residual.load_qmap(tmp_path / "q.safetensors")
