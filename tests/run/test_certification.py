"""What is handed back is certified on samples that steered nothing, by what steered nothing."""

import json

import numpy as np
import pytest

from rlhf_tune.errors import (
    CannotCertify,
    InvalidInputError,
    MissingExtraError,
    TooFewSamplesError,
)
from rlhf_tune.run.certification import CANDIDATES, Certification
from rlhf_tune.run.display import verified
from rlhf_tune.run.driver import Run
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.history import History
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Checkpoint, Guard, Move, Stretch
from rlhf_tune.run.trees import put_together, taken_apart
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune.safety.custom import constraint
from rlhf_tune.safety.measurement import Constraint, Every, measured
from rlhf_tune.testing import ScriptedTrainer

STAY = RunPolicy(lambda state: Move("stay"), Guard(), stretches=1)
LAST = RunPolicy(lambda state: Move("stay"), None, stretches=1, keeps_best=False)


class Halved(Constraint):
    """A function of the steps taken, at least 0.5; another one is what certifies."""

    def __init__(self, steers, certifies=None, name="halved"):
        self.name, self.value = name, steers
        self.certifies, self.candidates, self.asked = certifies, [], []

    def __call__(self, model):
        self.asked.append(model.steps)
        value = self.value(model.steps)
        return measured(self.name, value, 0.5, (value - 0.1, 1.0), 10, kind="floor")

    def halves(self, candidates):
        self.candidates.append(candidates)
        if not isinstance(self.certifies, Halved):
            self.certifies = Halved(self.certifies, name=self.name)
        return self, self.certifies


def driven(each, *, policy=STAY, **arguments):
    trainer = ScriptedTrainer(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=policy, constraints=[each], **arguments)
    return trainer, run, run.drive(lambda epoch: None)


def test_the_best_state_is_asked_on_the_other_half_and_only_then():
    each = Halved(lambda steps: 0.7, lambda steps: 0.8)
    trainer, _, history = driven(each)
    assert each.asked == list(range(0, 101, 10))
    assert each.certifies.asked == [100]
    assert trainer.model.steps == 100
    assert history.certificate["halved"].value == 0.8
    assert history.history["halved"] == [0.7] * 10
    assert max(each.candidates) <= CANDIDATES


def test_the_last_line_says_what_certified():
    _, _, history = driven(Halved(lambda steps: 0.7, lambda steps: 0.8))
    told = verified(history)
    assert told.startswith("certified: halved 0.8 (kept by 0.2); verification of the constraints")
    assert verified(History()) == ""


def test_what_only_steered_is_not_certified():
    """As FGSM after every stretch may say .67 where all attacks on other samples say .45."""
    each = Halved(lambda steps: 0.67, lambda steps: 0.45)
    told = r"none of the \d best states .* nearest was halved = 0\.45 .*missed by 0\.15\); lower"
    with pytest.raises(CannotCertify, match=told) as caught:
        driven(each)
    assert caught.value.best.steps == 100  # the best by the metric
    assert caught.value.history.certificate == {}
    assert len(each.certifies.asked) == len(set(each.certifies.asked)) <= CANDIDATES


def test_where_the_best_is_refused_a_state_farther_within_is_handed_back():
    each = Halved(lambda steps: 1 - steps / 250, lambda steps: 1 - steps / 100)
    trainer, run, history = driven(each)
    assert [s.committed for s in run.guarded.record] == [True] * 10
    assert each.certifies.asked == [100, 80, 10]  # the best, the best well inside, the farthest
    assert trainer.model.steps == 10
    assert run.guarded.best.stretch is run.guarded.record[0]
    assert history.certificate["halved"].value == 0.9


@pytest.mark.parametrize(
    ("steers", "certifies", "asked"),
    [
        (lambda steps: 0.55, lambda steps: 0.8, [100]),  # the best by the metric
        (lambda steps: 0.59 - steps / 1e4, lambda steps: 0.8 - steps / 250, [100, 10]),
        (lambda steps: 0.55 if steps == 50 else 0.45, lambda steps: 0.8, [50]),
    ],
)
def test_what_is_kept_by_less_than_the_luck_of_the_samples_that_steer_is_asked_too(
    steers, certifies, asked
):
    """Their lower bound is .1 below what they say; what steered nothing decides."""
    each = Halved(steers, certifies)
    trainer, run, history = driven(each)
    assert each.certifies.asked == asked
    assert trainer.model.steps == asked[-1]
    assert run.guarded.best.certified
    assert history.certificate["halved"].satisfied


@pytest.mark.parametrize("steers", [0.5, 0.45, 0.1])
def test_what_is_at_its_bound_or_beyond_is_not_worth_asking(steers):
    each = Halved(lambda steps: steers, lambda steps: 0.9)
    with pytest.raises(CannotCertify, match=f"no state of the run did; .* halved = {steers}"):
        driven(each)
    assert each.certifies.asked == []


def test_what_neither_half_is_sure_of_is_not_certified():
    each = Halved(lambda steps: 0.55, lambda steps: 0.59)
    with pytest.raises(CannotCertify, match=r"none of the 2 best states .* halved = 0\.59"):
        driven(each)
    assert each.asked[-1] == 100
    assert each.candidates[-1] == 2


@pytest.mark.parametrize(("refused", "steps"), [([], 100), ([100], 60)])
def test_a_policy_that_keeps_the_last_state_asks_for_it_first(refused, steps):
    """The scripted loss rises at the end, where the rate is too large for the floor of noise."""

    class Rising(ScriptedTrainer):
        def evaluate(self):
            return {"val_loss": abs(self.model.steps - 60) / 10 + 1}

    each = Halved(lambda steps: 0.7, lambda steps: 0.1 if steps in refused else 0.8)
    trainer = Rising(learning_rate=0.05)
    run = Run(trainer, epochs=10, policy=LAST, constraints=[each])
    run.drive(lambda epoch: None)
    assert each.certifies.asked[0] == 100
    assert trainer.model.steps == steps


def test_an_interrupted_run_certifies_too():
    def interrupt(epoch):
        if epoch.number == 4:
            raise KeyboardInterrupt

    each = Halved(lambda steps: 0.7, lambda steps: 0.8)
    trainer = ScriptedTrainer(learning_rate=0.05)
    history = Run(trainer, epochs=10, policy=STAY, constraints=[each]).drive(interrupt)
    assert history.interrupted
    assert each.certifies.asked == [50]
    assert history.certificate["halved"].satisfied


def test_what_breaks_a_certification_off_leaves_the_best_state_and_the_history():
    def interrupted(steps):
        raise KeyboardInterrupt

    trainer = ScriptedTrainer(learning_rate=0.05)
    each = Halved(lambda steps: 1 - steps / 250, interrupted)
    run = Run(trainer, epochs=10, policy=STAY, constraints=[each])
    with pytest.raises(KeyboardInterrupt) as caught:
        run.drive(lambda epoch: None)
    assert caught.value.history is run.history
    assert caught.value.history.certificate == {}
    assert trainer.model.steps == 100
    assert "10 epochs were committed" in caught.value.__notes__[0]


def test_an_environment_certifies_what_it_hands_back():
    each = Halved(lambda steps: 0.7, lambda steps: 0.2)
    envs = pytest.importorskip("rlhf_tune.envs", exc_type=MissingExtraError)
    env = envs.TuningEnv(ScriptedTrainer(), steps=40, stretch=10, constraints=[each])
    env.reset()
    env.step(np.int64(0))
    with pytest.raises(CannotCertify, match="samples that steered nothing"):
        env.hand_back()
    each.certifies.value = lambda steps: 0.9
    env.hand_back()


def test_a_measure_that_cannot_be_divided_is_not_asked_twice():
    asked = []

    def size(model):
        asked.append(model.steps)
        return 1.0

    _, run, history = driven(constraint("size", size, at_least=0.5))
    assert asked == list(range(0, 101, 10))
    assert not run.guarded._certification.by  # and no further state is kept in memory
    assert history.certificate == run.guarded.record[-1].measurements


@pytest.mark.parametrize("verify_every", [1, 3])
@pytest.mark.parametrize("first", [1.0, 0.599])  # of which the bounds are surely kept, or perhaps
def test_a_run_with_candidates_goes_on_elsewhere(first, verify_every):
    def made():
        each = Halved(lambda steps: first - steps / 1100, lambda steps: 1 - steps / 100)
        trainer = ScriptedTrainer(learning_rate=0.05)
        arguments = {"policy": STAY, "constraints": [each], "verify_every": verify_every}
        return trainer, Run(trainer, epochs=10, **arguments)

    whole, run = made()
    states = [run.state_dict()]
    run.on_rest = lambda: states.append(run.state_dict())
    history = run.drive(lambda epoch: None)
    for state in states:
        later, other = made()
        document, arrays = taken_apart(state)
        other.load_state_dict(put_together(json.loads(json.dumps(document)), arrays))
        resumed = other.drive(lambda epoch: None)
        assert later.model == whole.model
        assert resumed.certificate == history.certificate
        assert repr(other.guarded._certification.by) == repr(run.guarded._certification.by)


def test_several_at_once_are_divided_part_by_part():
    size = constraint("size", lambda model: 1.0, at_least=0.5)
    steers, certifies = (Halved(lambda _: 0.7, lambda _: 0.8) & size).halves(3)
    model = ScriptedTrainer().model
    assert (steers(model).name, steers(model).details["halved"]) == ("halved & size", 0.7)
    assert certifies(model).details["halved"] == 0.8
    undivided = Every([("a", size), ("b", size)], "both")
    assert undivided.halves(3) == (undivided, undivided)


def test_halves_share_no_sample_and_are_of_one_floor():
    rng = np.random.default_rng(0)
    x, y = rng.random((101, 3)), rng.integers(0, 2, 101)
    floor = RobustAccuracy(np.concatenate([x, x]), np.concatenate([y, y]), eps=0.1, at_least=0.5)
    steers, certifies = floor.halves(3)
    rows = [{tuple(row) for row in half._x.tolist()} for half in (steers, certifies)]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 101
    assert steers.name == certifies.name == floor.name


@pytest.mark.parametrize("asked", [{"eps": 0}, {"eps": 0.1, "attack": "noise"}])
def test_without_an_adversary_the_halves_are_measured_as_asked_for(asked):
    rng = np.random.default_rng(0)
    floor = RobustAccuracy(rng.random((80, 3)), rng.integers(0, 2, 80), at_least=0.5, **asked)
    for half in floor.halves(3):
        assert half._attack == floor._attack
        assert not half._full
        assert len(half._x) == 40


def test_too_few_samples_are_said_before_training():
    rng = np.random.default_rng(0)
    floor = RobustAccuracy(rng.random((20, 3)), rng.integers(0, 2, 20), eps=0.1, at_least=0.8)
    trainer = ScriptedTrainer()
    with pytest.raises(TooFewSamplesError, match=r"at least 38 different ones .*about 20"):
        GuardedRun(trainer, epochs=1, constraints=[floor])
    assert trainer.model.steps == 0


def test_constraints_are_a_list():
    with pytest.raises(InvalidInputError, match="must be a list"):
        Certification(constraint("size", lambda model: 1.0, at_least=0.5))


def test_no_state_is_asked_about_twice():
    certification = Certification([Halved(lambda _: 0.7, lambda _: 0.8)])
    good = measured("halved", 0.9, 0.5, (0.8, 1.0), 10, kind="floor")
    stretch = Stretch("stay", {"learning_rate": 0.1}, 1, 1.0, {}, {}, 0.3, {"halved": good})
    certification.consider(stretch, lambda: "snapshot")
    (state,) = {id(each): each for each in certification.by.values()}.values()
    assert certification.ranked(state) == [state]
    assert len(certification.ranked(Checkpoint("other", 0.1, certified=True))) == 2
