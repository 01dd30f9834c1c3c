"""The learned moves of a training run: what they see, what is open to them, what is left alone."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rlhf_tune.agents.network import Network
from rlhf_tune.errors import InvalidInputError, MissingExtraError
from rlhf_tune.run import dqn_moves
from rlhf_tune.run.dqn_moves import MOVES, RunNetwork
from rlhf_tune.run.driver import Run
from rlhf_tune.run.moves import BATCH_FACTORS, RATE_FACTORS
from rlhf_tune.run.observation import FEATURES
from rlhf_tune.run.policies import POLICIES
from rlhf_tune.run.schedules import terminal_decay
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.custom import constraint
from rlhf_tune.tensors import SHIPPED
from rlhf_tune.testing import ScriptedTrainer

STAY, QUARTER, HALF, DOUBLE, FOUR = range(5)


def stretch(loss, *, rate=1e-2, verdict="committed", training=0.5, factor=1.0, **values):
    return Stretch(
        "stay",
        {"learning_rate": rate, "batch_size": 32},
        10,
        1.0,
        {"loss": training},
        {"val_loss": loss},
        loss,
        verdict=verdict,
        factor=factor,
        **values,
    )


def state(record, progress=0.3, **values):
    known = {"usual_rate": 1e-3, "loss_before": 2.0, "batch_size": 32, "now": {"batch_size": 32}}
    return RunState(1e-2, record, progress, **{**known, "batch_sizes": (32, 32), **values})


def between_epochs(record=None, **values):
    record = record or [stretch(1.0), stretch(0.8)]
    return state(record, **{"batch_sizes": (1, 128), **values})


def agent(*hidden, seed=0):
    dqn = pytest.importorskip("rlhf_tune.agents.dqn", exc_type=MissingExtraError)
    return dqn.DQN(MOVES, len(FEATURES), hidden=hidden, seed=seed)


def untrained():
    return RunNetwork(Network(agent(8).layers))


def always(rate=0.0, size=0.0):
    """A network whose advantage is linear in a move's logarithms, whatever it sees."""
    weight = np.zeros((len(FEATURES) + 2, 1))
    weight[-2:, 0] = rate, size
    return RunNetwork(Network([(weight, np.zeros(1))]))


def run(policy, trainer=None, **arguments):
    trainer = trainer or ScriptedTrainer(samples=640)
    made = Run(trainer, policy=policy, usual_rate=0.02, **{"epochs": 20, **arguments})
    made.drive(lambda epoch: None)
    return made


def with_network(network):
    return replace(POLICIES["default"], decide=lambda s: dqn_moves.decide(s, network))


def test_untrained_it_is_the_default_policy():
    default, ours = run("default"), run(with_network(untrained()))
    assert [vars(s) | {"spread": 0} for s in ours.guarded.record] == [
        vars(s) | {"spread": 0} for s in default.guarded.record
    ]
    assert ours.history.history == default.history.history


def test_the_observation_is_what_the_features_are_called():
    record = [stretch(1.0, training=0.9), stretch(3.0, verdict="worse"), stretch(0.5, factor=2.0)]
    seen = dict(zip(FEATURES, dqn_moves.observe(state(record)), strict=True))
    assert seen["loss"] == pytest.approx(math.log10(0.25))
    assert seen["loss above the best"] == 0
    assert seen["slope"] == pytest.approx(3 * math.log(0.5))
    assert seen["slope over four stretches"] == pytest.approx(math.log(0.5))
    assert seen["training slope"] == pytest.approx(3 * math.log(0.5 / 0.9))
    assert seen["generalisation gap"] == pytest.approx(0)
    assert seen["rate"] == pytest.approx(math.log10(10 / 4 * 2))  # one cut, times 2
    assert seen["factor"] == pytest.approx(1 / 3)
    assert seen["rate over batch"] == pytest.approx(seen["rate"])
    assert seen["batch"] == 0
    assert seen["progress"] == 0.3
    assert seen["cuts"] == pytest.approx(1 / 3)
    assert seen["rolled back"] == 0
    assert seen["stretches since the last rollback"] == pytest.approx(1 / 6)
    assert (seen["certified"], seen["margin"]) == (1, 0)
    assert (seen["rate move"], seen["batch is to be chosen"]) == (0, 0)


def test_losses_are_relative_so_units_do_not_matter():
    record = [stretch(1.0), stretch(0.8)]
    larger = [stretch(10.0, training=5.0), stretch(8.0, training=5.0)]
    np.testing.assert_allclose(
        dqn_moves.observe(state(record)),
        dqn_moves.observe(state(larger, loss_before=20.0)),
    )


def test_the_margin_is_that_of_the_nearest_constraint():
    floor = constraint("a", lambda model: 0.7, at_least=0.5)(None)
    near = constraint("b", lambda model: 0.7, at_least=0.68)(None)
    last = stretch(0.8, measurements={"a": floor, "b": near})
    seen = dqn_moves.observe(state([stretch(1.0), last]))
    assert seen[FEATURES.index("margin")] == pytest.approx(0.2)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, 1e300])
def test_strange_losses_give_a_finite_observation(value):
    record = [stretch(1.0), stretch(0.8, training=value), stretch(0.7)]
    seen = dqn_moves.observe(state(record, loss_before=value))
    assert np.isfinite(seen).all()
    assert np.abs(seen).max() <= 3


def test_it_stays_until_there_is_a_slope_and_where_there_is_no_validation_loss():
    eager = always(rate=1.0)
    assert dqn_moves.decide(state([]), eager).name == "stay"
    assert dqn_moves.decide(state([stretch(1.0)]), eager).name == "stay"
    unknown = [replace(stretch(1.0), validation={"val_accuracy": 0.5})] * 3
    assert dqn_moves.decide(state(unknown), eager).name == "stay"
    assert dqn_moves.decide(state([stretch(1.0)] * 2), eager).name == "rate x4"


def test_moves_multiply_the_rate_of_the_default_policy_for_good():
    first = dqn_moves.moved(state([stretch(1.0), stretch(0.9)]), FOUR, 0)
    assert (first.name, first.factor) == ("rate x4", 4.0)
    assert first.hyperparameters["learning_rate"] == pytest.approx(4e-2)
    record = [stretch(1.0), stretch(0.9), stretch(2.0, verdict="worse", factor=4.0)]
    after = dqn_moves.moved(state(record), STAY, 0)
    assert (after.name, after.factor) == ("cut", 4.0)
    assert after.hyperparameters["learning_rate"] == pytest.approx(1e-2)  # raised and cut
    late = dqn_moves.moved(state(record[:2], progress=0.8), HALF, 0)
    assert late.hyperparameters["learning_rate"] == pytest.approx(1e-2 / 2 * terminal_decay(0.8))


def test_the_batch_is_chosen_given_the_move_of_the_rate():
    seen = dqn_moves.observe(between_epochs())
    given = dqn_moves.given(seen, FOUR)
    np.testing.assert_array_equal(given[:-2], seen[:-2])
    assert given[-2:].tolist() == [1.0, 1.0]
    both = dqn_moves.decide(between_epochs(), always(rate=-1.0, size=1.0))
    assert (both.name, both.hyperparameters["batch_size"]) == ("rate x0.25, batch x2", 64)
    assert dqn_moves.decide(between_epochs(), always(size=-1.0)).hyperparameters["batch_size"] == 16


def test_a_batch_moves_only_where_the_run_allows_it():
    either = always(size=1.0)
    within, fixed = state([stretch(1.0)] * 2), between_epochs(now={})
    odd = between_epochs(now={"batch_size": 25}, batch_sizes=(1, 100))
    for here, network in ((within, either), (fixed, either), (odd, always(size=-1.0))):
        assert "batch_size" not in dqn_moves.decide(here, network).hyperparameters
    assert dqn_moves.allowed(between_epochs(now={"batch_size": 8}))[1].tolist() == [
        True,
        False,
        True,
    ]
    assert dqn_moves.allowed(between_epochs(now={"batch_size": 100}))[1].tolist() == [
        True,
        True,
        False,
    ]


def test_rates_that_were_rolled_back_here_are_masked_until_a_stretch_is_committed():
    record = [stretch(1.0), stretch(0.9), stretch(2.0, rate=1e-2, verdict="worse")]
    rates, _ = dqn_moves.allowed(state(record))
    assert np.array(RATE_FACTORS)[rates].tolist() == [1, 0.25, 0.5, 2]  # of a quarter of it
    rates, _ = dqn_moves.allowed(state([*record, stretch(0.9)]))
    assert rates.all()


def test_the_moves_together_stay_within_64():
    raised = run(with_network(always(rate=1.0)), ScriptedTrainer(curvature=1e-4, samples=640))
    assert max(s.factor for s in raised.guarded.record) == 64
    lowered = run(with_network(always(rate=-1.0)))
    assert min(s.factor for s in lowered.guarded.record) == 1 / 64


def test_a_move_must_be_worth_its_margin():
    eager = always(rate=0.1)  # x4 is worth .1
    assert dqn_moves.decide(state([stretch(1.0)] * 2), replace(eager, margin=0.09)).factor == 4
    assert dqn_moves.decide(state([stretch(1.0)] * 2), replace(eager, margin=0.11)).factor == 1


@pytest.mark.parametrize("network", [always(rate=1.0, size=1.0), always(rate=-1.0, size=-1.0)])
@pytest.mark.parametrize("epochs", [1, 5, 40, 2.5])
def test_whatever_it_wants_the_run_is_guarded_and_keeps_its_budget(network, epochs):
    held = constraint("rate", lambda model: model.learning_rate, at_most=0.5)
    made = run(with_network(network), epochs=epochs, constraints=[held])
    assert made.guarded.spent <= epochs + 1e-9
    assert made.guarded.best.certified
    sizes = [s.batch_size for s in made.guarded.record]
    assert min(sizes) >= 8
    assert all(s.learning_rate <= 0.5 for s in made.guarded.record if s.committed)


def test_the_batch_does_not_grow_beyond_what_is_left_of_the_budget():
    trainer = ScriptedTrainer(samples=3200)
    made = run(with_network(always(size=1.0)), trainer, epochs=30)
    assert min(s.steps for s in made.guarded.record) >= 1
    assert max(s.batch_size for s in made.guarded.record) == 32 * 8


def test_the_shipped_network_drives_a_run():
    assert SHIPPED.with_name("run_moves.safetensors").stat().st_size < 100_000
    seen = dqn_moves.observe(between_epochs())
    assert np.abs(dqn_moves.shipped().advantages(seen, MOVES)).max() > 0  # it was trained
    made, default = run("dqn"), run("default")
    # Its returns did not tell losses apart that differ by less than .02 of the first.
    worse = made.guarded.best.value - default.guarded.best.value
    assert worse < 0.02 * made.guarded.unit


def test_a_network_is_what_was_saved(tmp_path):
    network = RunNetwork(Network(agent(8, seed=1).layers), margin=0.25)
    dqn_moves.save(network, tmp_path / "net.safetensors", {})
    again = dqn_moves.load(tmp_path / "net.safetensors")
    assert again.margin == 0.25
    for ours, theirs in zip(network.network.layers, again.network.layers, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_the_network_computes_what_the_agent_does():
    learned = agent(8, 8, seed=1)
    learned._weights[-1][0].data.normal_()
    seen = np.random.default_rng(0).normal(size=len(FEATURES))
    expected = learned.values(seen[None].astype(np.float32))[0]
    found = RunNetwork(Network(learned.layers)).advantages(seen, MOVES)
    np.testing.assert_allclose(found, expected - expected[0], atol=1e-5)


def test_another_file_is_refused():
    with pytest.raises(InvalidInputError, match=r"run_moves\.safetensors"):
        dqn_moves.load(SHIPPED)


def test_the_moves_begin_with_stay():
    assert RATE_FACTORS[0] == BATCH_FACTORS[0] == 1
    assert not MOVES[0].any()
    assert not MOVES[len(RATE_FACTORS)].any()
