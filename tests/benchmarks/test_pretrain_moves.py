"""What the learned moves are trained on: simulated and real runs that can be repeated."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from benchmarks import learned_moves, pretrain_moves
from benchmarks.pretrain_moves import Row, Simulated
from benchmarks.runs import problems, quadratic
from benchmarks.runs.disturbed import SETTINGS, Disturbed, DisturbedTrainer, Event
from rlhf_tune.run import dqn_moves
from rlhf_tune.run.dqn_moves import FEATURES
from rlhf_tune.run.schedules import cut_and_decay

JOB = ("moons", "mlp64-sgd")


def world(**values):
    """One without noise, whose training data agree with the validation data."""
    drawn = quadratic.draw("plain", (0,))
    zero = np.zeros_like(drawn.start)
    return replace(drawn, **{"noise": 0.0, "before": zero, "after": zero, **values})


def stepwise(made, rate, steps):
    """The parameters and the mean loss by single steps of gradient descent."""
    w, losses = made.start.copy(), []
    for _ in range(steps):
        losses.append(made.loss(w))
        w = w - rate * made.curvature * w
    return w, float(np.mean(losses))


def test_a_stretch_in_closed_form_is_that_many_steps():
    made = world()
    trainer = quadratic.QuadraticTrainer(made, (1,))
    w, loss = stepwise(made, quadratic.USUAL_RATE, 20)
    metrics = trainer.train(20)
    assert metrics["loss"] == pytest.approx(loss)
    np.testing.assert_allclose(trainer.model.w, w, rtol=1e-9, atol=1e-12)


def test_its_noise_has_the_variance_of_single_steps():
    made = world(noise=3.0)
    rate, size, steps = quadratic.USUAL_RATE, quadratic.BATCH, 15
    ends = []
    for seed in range(400):
        trainer = quadratic.QuadraticTrainer(made, (seed,))
        trainer.train(steps)
        ends.append(trainer.model.w)
    variance = np.zeros_like(made.start)
    for _ in range(steps):
        variance = (1 - rate * made.curvature) ** 2 * variance
        variance += rate**2 * made.curvature * made.noise / size
    np.testing.assert_allclose(np.var(ends, axis=0), variance, rtol=0.35)


def test_the_world_changes_at_its_step_whatever_was_rolled_back():
    made = world(change=10, rate_factor=0.0)
    trainer = quadratic.QuadraticTrainer(made, (0,))
    kept = trainer.snapshot()
    trainer.train(8)
    trainer.restore(kept)
    trainer.train(2)
    expected, _ = stepwise(made, quadratic.USUAL_RATE, 2)
    np.testing.assert_allclose(trainer.model.w, expected)
    trainer.train(5)  # of no effect
    np.testing.assert_allclose(trainer.model.w, expected)


@pytest.mark.parametrize("setting", SETTINGS)
def test_simulated_runs_repeat_and_differ_by_seed(setting):
    first = Simulated(setting, (1, 2)).play(cut_and_decay)
    assert first == Simulated(setting, (1, 2)).play(cut_and_decay)
    assert first != Simulated(setting, (1, 3)).play(cut_and_decay)
    assert -math.log(1.02) <= first <= -math.log(0.02)


def test_a_bound_of_a_simulated_world_can_be_kept_and_broken():
    made = quadratic.draw("constraint", (4,))
    (held,) = made.constraints()
    way = [held(quadratic.Model(made.start * share)).satisfied for share in np.linspace(1, 0, 50)]
    assert True in way
    assert False in way


def test_a_row_tries_every_move_that_is_open_and_staying_is_the_zero():
    row = pretrain_moves.explore(Simulated("plain", (3, 3)), (0,))
    again = pretrain_moves.explore(Simulated("plain", (3, 3)), (0,))
    assert row.advantage[0, 0] == 0
    assert np.isfinite(row.advantage[:, 0]).sum() >= 3
    assert np.isfinite(row.advantage[:, 1:]).any(axis=0).tolist() == row.sizes[1:].tolist()
    np.testing.assert_array_equal(row.advantage, again.advantage)
    np.testing.assert_array_equal(row.seen, again.seen)


def rows(count=60):
    """Raising pays where the slope feature is positive, lowering where it is negative."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        seen = rng.normal(size=len(FEATURES))
        seen[-2:] = 0.0
        sign = np.sign(seen[FEATURES.index("slope")])
        gain = np.array([0.0, -0.4, -0.2, 0.2, 0.4]) * sign
        sizes = np.array([True, False, True])
        advantage = np.stack([gain, np.full(5, np.nan), gain - 0.3], axis=1)
        made.append(Row(seen, sizes, advantage))
    return made


def test_the_network_learns_which_move_pays():
    learned = pretrain_moves.learn(rows(), seed=0, steps=400)
    right = 0
    for row in rows():
        n = len(dqn_moves.RATE_FACTORS)
        rate = learned.choose(row.seen, dqn_moves.MOVES[:n], np.ones(n, np.bool_))
        right += row.advantage[rate, 0] > 0
        given = dqn_moves.given(row.seen, rate)
        assert learned.choose(given, dqn_moves.MOVES[n:], row.sizes) == 0  # growing never pays
    assert right > 0.9 * len(rows())


def test_rows_that_were_made_are_not_made_again(tmp_path):
    made = []

    def case(i):
        made.append(i)
        return Simulated("rate", (0, i))

    cases = [lambda i=i: case(i) for i in range(3)]
    first = pretrain_moves.rows_of(cases, (0,), tmp_path / "rows", "rows")
    second = pretrain_moves.rows_of(cases, (0,), tmp_path / "rows", "rows")
    assert made == [0, 1, 2]
    np.testing.assert_array_equal(first[1].advantage, second[1].advantage)


def test_the_command_writes_a_network_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrain_moves, "problem", lambda task: problems.problem(task, steps=96))
    words = ["-o", str(tmp_path), "--seeds", "1", "--simulated", "4", "--real", "0"]
    words += ["--choosing", "1", "--steps", "20"]
    assert pretrain_moves.main(words) == 0
    first = dqn_moves.load(tmp_path / "run_moves-0.safetensors")
    assert round(first.margin, 6) in pretrain_moves.MARGINS
    assert pretrain_moves.main(words) == 0
    again = dqn_moves.load(tmp_path / "run_moves-0.safetensors")
    for ours, theirs in zip(first.network.layers, again.network.layers, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    assert "gain where it was chosen" in capsys.readouterr().out


@pytest.mark.parametrize(("gain", "warned"), [(0.01, False), (0.0, True), (-0.01, True)])
def test_the_command_says_when_nothing_was_gained(tmp_path, capsys, monkeypatch, gain, warned):
    monkeypatch.setattr(pretrain_moves, "train", lambda *_: (dqn_moves.shipped(), gain))
    assert pretrain_moves.main(["-o", str(tmp_path), "--seeds", "1"]) == 0
    assert ("no better there than to stay" in capsys.readouterr().out) == warned


def test_families_that_choose_do_not_train():
    def families(cases):
        return {case.args[0][0] for case in cases}

    trained = families(pretrain_moves.real(100, chooses=False))
    assert trained.isdisjoint(families(pretrain_moves.real(100, chooses=True)))


def disturbed(setting, steps=120):
    problem = replace(pretrain_moves.problem(JOB), steps=steps)
    return Disturbed(problem, setting, 3)


@pytest.mark.parametrize("setting", ["plain", "rate", "shift"])
def test_real_runs_repeat_and_leave_the_data_alone(setting):
    case = disturbed(setting)
    labels = case.problem.data.y_train.copy()
    first, second = case.play("default"), case.play("default")
    assert (first.value, first.loss, first.accuracy) == (second.value, second.loss, second.accuracy)
    np.testing.assert_array_equal(case.problem.data.y_train, labels)
    assert first.moves == 0


def test_a_floor_is_found_that_binds():
    case = disturbed("constraint").bound()
    assert 0 < case.floor < 1
    verdicts = [
        stretch.satisfied for stretch in case.play("default").record if stretch.measurements
    ]
    assert False in verdicts


def test_an_event_changes_the_rate_in_effect_but_not_the_one_seen():
    inner = pretrain_moves.problem(JOB).trainer(0.1, 0)
    trainer = DisturbedTrainer(inner, Event(5, factor=0.1))
    trainer.train(3)
    kept = trainer.snapshot()
    assert inner.hyperparameters["learning_rate"] == pytest.approx(0.1)
    trainer.train(4)
    assert inner.hyperparameters["learning_rate"] == pytest.approx(0.01)
    trainer.restore(kept)
    trainer.set(learning_rate=0.2)
    assert trainer.hyperparameters["learning_rate"] == pytest.approx(0.2)
    assert inner.hyperparameters["learning_rate"] == pytest.approx(0.02)


def test_an_event_happens_once():
    heard = []
    inner = pretrain_moves.problem(JOB).trainer(0.1, 0)
    trainer = DisturbedTrainer(inner, Event(4, do=lambda: heard.append(1)))
    assert trainer.train(4)["steps"] == 4
    assert trainer.train(6)["steps"] == 6
    assert heard == [1]


def test_the_gate_asks_for_a_standard_error_in_accuracy_and_loss():
    outcome = disturbed("plain").play("default")

    def pairs(accuracy, loss):
        return [
            learned_moves.Pair(
                "f",
                str(task),
                "plain",
                "n",
                outcome,
                replace(outcome, accuracy=outcome.accuracy + a, loss=outcome.loss - lowered),
            )
            for task, (a, lowered) in enumerate(zip(accuracy, loss, strict=True))
        ]

    assert learned_moves.ahead(pairs([0.1, 0.2, 0.1], [0.1, 0.2, 0.1]))
    assert not learned_moves.ahead(pairs([0.1, 0.2, 0.1], [0.1, -0.2, 0.1]))
    assert not learned_moves.ahead(pairs([0.5, 0.0, -0.1], [0.1, 0.2, 0.1]))
    assert not learned_moves.ahead(pairs([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]))


def test_the_settings_are_those_of_the_simulator():
    for setting in SETTINGS:
        made = quadratic.draw(setting, (5,))
        assert (made.rate_factor != 1) == (setting == "rate")
        assert (made.before is not made.after) == (setting == "shift")
        assert bool(made.constraints()) == (setting == "constraint")
