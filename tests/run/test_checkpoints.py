"""A run goes on elsewhere, and ends where it would have ended."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run import checkpoints
from rlhf_tune.run.checkpoints import Shelf, attach
from rlhf_tune.run.driver import Run
from rlhf_tune.run.stretch import Move
from rlhf_tune.run.trees import put_together, taken_apart
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import ScriptedTrainer

BOUND = {"constraints": [constraint("rate", lambda model: model.learning_rate, at_most=0.4)]}


class KilledError(Exception):
    pass


def made(trainer=None, **arguments):
    trainer = trainer or ScriptedTrainer()
    return trainer, Run(trainer, **{"epochs": 10, "usual_rate": 0.02, **arguments})


def entries(history):
    """All of a history but the time it took; as text, for some figures are NaN."""
    return {key: repr(value) for key, value in vars(history).items() if key != "verification"}


def stopped_after(rests, run):
    """Drive, until so many rests are over."""

    def rest():
        nonlocal rests
        save()
        rests -= 1
        if rests == 0:
            raise KilledError

    save, run.on_rest = run.on_rest, rest
    seen = []
    try:
        run.drive(lambda epoch: seen.append(epoch.number))
    except KilledError:
        return seen
    raise AssertionError("the run was over before")


def through_json(state):
    document, arrays = taken_apart(state)
    return put_together(json.loads(json.dumps(document, allow_nan=False)), arrays)


# A wild usual rate is rolled back; 3 epochs are divided into stretches.
@pytest.mark.parametrize("usual_rate", [0.02, 0.5])
@pytest.mark.parametrize("arguments", [{}, BOUND, {"epochs": 3}, {"policy": "dqn"}])
@pytest.mark.parametrize("passed_on", [copy.deepcopy, through_json])
def test_a_run_goes_on_elsewhere(arguments, usual_rate, passed_on):
    arguments = {**arguments, "usual_rate": usual_rate}
    whole, run = made(**arguments)
    epochs, states = [], [run.state_dict()]
    run.on_rest = lambda: states.append(run.state_dict())
    history = run.drive(lambda epoch: epochs.append(epoch))
    assert len(states) > 4
    for state in states:
        later, other = made(**arguments)
        other.load_state_dict(passed_on(state))
        before, seen = len(other.history.epoch), []
        other.drive(lambda epoch, seen=seen: seen.append(epoch))
        assert later.model == whole.model
        assert entries(other.history) == entries(history)
        assert repr(other.guarded.record) == repr(run.guarded.record)
        assert seen == epochs[before:]


def test_stretches_stay_the_same_objects():
    _, run = made(epochs=3)
    for _ in run:
        break
    _, other = made(epochs=3)
    other.load_state_dict(through_json(run.state_dict()))
    guarded = other.guarded
    assert any(guarded.best.stretch is each for each in guarded.record)
    assert any(guarded.here is each for each in guarded.record)
    assert other._start.record is guarded.record


def test_no_attribute_is_forgotten():
    """Of a run that has tested rates, rolled back, and stands within an epoch."""
    _, run = made(epochs=3, usual_rate=0.5, **BOUND)
    states = []
    run.on_rest = lambda: states.append((run.state_dict(), everything(run)))
    run.drive(lambda epoch: None)
    assert any(stretch.verdict != "committed" for stretch in run.guarded.record)
    for state, expected in states:
        _, other = made(epochs=3, usual_rate=0.5, **BOUND)
        other.load_state_dict(through_json(state))
        assert everything(other) == expected


def test_that_a_rate_was_found_not_to_be_at_fault_is_remembered():
    """Else a run that goes on would test it again, and spend what the other did not."""
    _, run = made(trainer=ScriptedTrainer(), epochs=3, policy="bold")
    run.guarded.attempt(Move("too high", {"learning_rate": 1e9}), 2)
    run.guarded.check_rate_is_at_fault()
    assert run.guarded._cleared
    _, other = made(trainer=ScriptedTrainer(), epochs=3, policy="bold")
    other.load_state_dict(through_json(run.state_dict()))
    assert everything(other) == everything(run)
    assert other.guarded._cleared == (other.guarded.best.stretch,)


def everything(run):
    """All attributes but those given at the beginning, memory to be used again, and time."""
    given = {"_trainer", "_constraints", "_spare", "verification", "guarded", "on_rest", "_policy"}
    given |= {"_validation", "_reach", "_certification"}
    candidates = {"candidates": run.guarded._certification.by}
    attributes = {**vars(run), **vars(run.guarded), **candidates}
    return {name: repr(value) for name, value in attributes.items() if name not in given}


def test_a_state_is_not_changed_by_what_the_run_does_then():
    _, run = made()
    for _ in run:
        break
    state = run.state_dict()
    text = json.dumps(taken_apart(state)[0])
    run.drive(lambda epoch: None)
    assert json.dumps(taken_apart(state)[0]) == text


@pytest.mark.parametrize("rests", [1, 2, 5, 9])
def test_a_folder_takes_up_where_it_was_left(tmp_path, rests):
    whole, run = made()
    seen = []
    run.drive(lambda epoch: seen.append(epoch.number))
    _, first = made()
    assert not attach(first, tmp_path / "a" / "b")
    early = stopped_after(rests, first)
    later, second = made()
    assert attach(second, tmp_path / "a" / "b")
    late = []
    second.drive(lambda epoch: late.append(epoch.number))
    assert early + late == seen
    assert later.model == whole.model
    assert entries(second.history) == entries(run.history)


def test_a_finished_run_returns_at_once(tmp_path):
    trainer, run = made(epochs=3.5)
    attach(run, tmp_path)
    history = run.drive(lambda epoch: None)
    other, again = made(epochs=3.5)
    other.train = None  # nothing is trained
    assert attach(again, tmp_path)
    assert entries(again.drive(pytest.fail)) == entries(history)
    assert other.model == trainer.model


def test_a_run_that_was_stopped_stays_so(tmp_path):
    trainer, run = made()
    attach(run, tmp_path)
    run.drive(lambda epoch: run.stop())
    other, again = made()
    attach(again, tmp_path)
    assert len(again.drive(pytest.fail).epoch) == 1
    assert other.model == trainer.model


def test_what_could_not_be_certified_cannot_be_later(tmp_path):
    never = [constraint("steps", lambda model: model.steps, at_least=1e6)]
    for on_epoch in (lambda epoch: None, pytest.fail):
        _, run = made(constraints=never)
        attach(run, tmp_path)
        with pytest.raises(CannotCertify):
            run.drive(on_epoch)


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 11},
        {"policy": "grow"},
        {"mode": "max"},
        {"verify_every": 2},
        {"constraints": [constraint("rate", lambda model: 0.0, at_most=1.0)]},
        {"trainer": ScriptedTrainer(samples=640)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_run_is_refused_and_the_checkpoint_left_alone(tmp_path, other):
    _, run = made(**BOUND)
    attach(run, tmp_path)
    stopped_after(3, run)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    trainer, run = made(**{**BOUND, **other})
    model = copy.copy(trainer.model)
    with pytest.raises(InvalidInputError, match=r"must be of this run: .* delete the folder"):
        attach(run, tmp_path)
    assert trainer.model == model
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def written(folder):
    _, run = made()
    attach(run, folder)
    stopped_after(3, run)
    return folder / "latest.safetensors", folder / "previous.safetensors"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_damaged_checkpoint_says_so_and_is_left_alone(tmp_path, share):
    latest, _ = written(tmp_path)
    content = bytearray(latest.read_bytes())
    content[int(share * len(content))] ^= 1
    for damaged in (bytes(content), bytes(content[: int(share * len(content))])):
        latest.write_bytes(damaged)
        with pytest.raises(InvalidInputError, match=r"is damaged|another safetensors"):
            attach(made()[1], tmp_path)
        assert latest.read_bytes() == damaged


def test_the_state_before_it_takes_the_place_of_a_missing_one(tmp_path):
    latest, _ = written(tmp_path)
    whole, run = made()
    run.drive(lambda epoch: None)
    latest.unlink()
    other, again = made()
    assert attach(again, tmp_path)
    again.drive(lambda epoch: None)
    assert other.model == whole.model


def test_a_foreign_file_and_a_newer_format_are_told_apart(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    latest, _ = written(tmp_path)
    monkeypatch.setattr(checkpoints, "FORMAT", "0")
    with pytest.raises(InvalidInputError, match=r"format 0, but .* has '1'"):
        attach(made()[1], tmp_path)
    save_file({"weights": np.zeros(3)}, latest)
    with pytest.raises(InvalidInputError, match="a folder of its own"):
        attach(made()[1], tmp_path)


def test_a_folder_that_cannot_be_made_is_told_at_the_call(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidInputError, match="`checkpoint` must be a folder"):
        attach(made()[1], tmp_path / "file")


@pytest.mark.parametrize("step", ["save_file", "first replace", "second replace"])
def test_a_write_that_fails_loses_nothing(tmp_path, monkeypatch, step):
    state = {"arrays": [np.arange(3.0)]}
    shelf = Shelf(tmp_path)
    for _ in range(2):
        shelf.write(state)

    def full(*arguments, **options):
        raise OSError("no space left")

    if step == "save_file":
        monkeypatch.setattr("safetensors.numpy.save_file", full)
    else:
        name = "latest" if step == "first replace" else f".latest.{os.getpid()}.partial"
        replace = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda path, to: (full if path.stem == name else replace)(path, to)
        )
    with pytest.raises(OSError, match="no space left"):
        shelf.write({"arrays": []})
    np.testing.assert_array_equal(Shelf(tmp_path).read()["arrays"][0], np.arange(3.0))


VALUES = [
    [1, -(2**80), 0.1, float("inf"), float("-inf"), None, True, "kind ☃"],
    {"a": (1, [2.5, ()]), 3: {"kind": "nonsense", "array": 1}},
    {"bits": np.arange(6, dtype=np.uint8).reshape(2, 3), "one": np.float32(0.5), "no": np.zeros(0)},
    [np.array(2.5), np.array([True, False]), np.arange(12.0).reshape(3, 4).T],
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values_come_back_from_json(value):
    np.testing.assert_equal(through_json(value), value)


def test_equal_arrays_are_kept_once():
    assert len(taken_apart([np.zeros(5), {"again": np.zeros(5)}, np.zeros(5, np.int64)])[1]) == 2


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.array(["text"]), len])
def test_what_cannot_be_written_is_named(value):
    with pytest.raises(InvalidInputError, match=f"a {type(value).__name__}: "):
        taken_apart({"state": [value]})


def test_a_trainer_that_cannot_be_written_is_named(tmp_path):
    class Plain(ScriptedTrainer):
        saved = property()

    _, run = made(Plain())
    with pytest.raises(InvalidInputError, match="`identity`, `saved` and `loaded`"):
        run.state_dict()
