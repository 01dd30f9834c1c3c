"""What is recorded is whole, and can be gone on with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record
from benchmarks.recorded import sequences as seq
from benchmarks.recorded import synthetic as syn
from benchmarks.recorded import tasks
from benchmarks.recorded.data import Source, mislabelled, prepare
from benchmarks.recorded.sources import SOURCES
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.tables import read_family

GRID = record.Grid(
    learning_rates=(1e-3, 1e-1), batch_sizes=(64, 256), seeds=(0, 1), epochs=2, fgsm_epochs=(2,)
)
JOB = record.Job("wine", "mlp64", "adam")
OTHER = record.Job("iris", "linear", "sgd")
SIBLING = record.Job("wine", "linear", "adam")  # of the same family as JOB


def test_a_diverged_run_is_flagged():
    grid = record.Grid((1e-3, 1e30), (256,), (0,), epochs=2, fgsm_epochs=(2,))
    tables = record.train_grid(record.Job("wine", "mlp64", "sgd"), prepare(SOURCES["wine"]), grid)
    assert np.isinf(tables["val_loss"][0, 1, 0, -1])
    assert tables["val_accuracy"][0, 1, 0, -1] == tables["fgsm_accuracy"][0, 1, 0, -1] == 0
    assert np.isfinite(tables["val_loss"][0, 0]).all()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three tasks of two families, recorded in one go."""
    folder = tmp_path_factory.mktemp("tables")
    assert record.record([JOB, OTHER, SIBLING], folder, GRID) == 3
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_recording_is_deterministic_and_resumable(recorded, tmp_path):
    assert record.record([SIBLING], tmp_path, GRID) == 1
    beside = read_family(tmp_path / "wine.npz")[SIBLING.name]
    assert record.record([JOB, SIBLING], tmp_path, GRID) == 1  # goes on where it stopped
    for measure, table in read_family(tmp_path / "wine.npz")[SIBLING.name].items():
        np.testing.assert_array_equal(table, beside[measure])
    assert record.record([JOB, OTHER, SIBLING], tmp_path, GRID) == 1
    assert names(tmp_path) == names(recorded) == ["iris.npz", "manifest.json", "wine.npz"]
    for file in ("iris.npz", "wine.npz"):
        assert (tmp_path / file).read_bytes() == (recorded / file).read_bytes()


def test_what_is_damaged_or_changed_is_recorded_again(recorded, tmp_path):
    folder = shutil.copytree(recorded, tmp_path / "copy")
    (folder / "wine.npz").write_bytes(b"damaged")
    assert record.record([JOB, OTHER, SIBLING], folder, GRID) == 2
    arrays = read_family(folder / "wine.npz")
    arrays[JOB.name]["val_loss"][0, 0, 0, 0] += 1
    flat = {f"{task}/{key}": table for task in arrays for key, table in arrays[task].items()}
    np.savez(folder / "wine.npz", **flat)
    assert record.record([JOB, OTHER, SIBLING], folder, GRID) == 1
    assert (folder / "wine.npz").read_bytes() == (recorded / "wine.npz").read_bytes()


@pytest.mark.parametrize("file", ["wine.npz", "manifest.json"])
def test_a_kill_while_writing_loses_no_other_task(recorded, tmp_path, monkeypatch, file):
    folder = tmp_path / "tables"
    record.record([OTHER, SIBLING], folder, GRID)
    replace = Path.replace

    def killed(self, target):
        if Path(target).name == file:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        record.record([JOB], folder, GRID)
    monkeypatch.undo()
    assert record.record([OTHER, SIBLING], folder, GRID) == 0
    assert record.record([JOB], folder, GRID) == 1
    assert (folder / "wine.npz").read_bytes() == (recorded / "wine.npz").read_bytes()


def test_what_was_recorded_can_be_loaded(recorded, tmp_path):
    folder = shutil.copytree(recorded, tmp_path / "copy")
    (folder / "split.json").write_text(json.dumps({"train": ["wine"], "test": ["iris"]}))
    sibling, task = tasks.load("train", folder)
    assert (sibling.name, sibling.network) == ("wine-linear-adam", "linear")
    assert (task.name, task.n_classes, task.optimizer) == ("wine-mlp64-adam", 3, "adam")
    assert task.val_loss.shape == (2, 2, 2, 2)
    assert task.fgsm_accuracy.shape == (2, 2, 2, 1)
    assert (task.val_loss[0] != task.val_loss[1]).all()  # seeds are runs of their own
    with pytest.raises(KeyError):
        tasks.load("validation", folder)


def test_a_checksum_is_of_names_types_shapes_and_values():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = record.checksum({"a": table, "b": table})
    assert record.checksum({"b": table.copy(order="F"), "a": table}) == same
    for other in (table + 1, table.T, table.astype(np.float64)):
        assert record.checksum({"a": other, "b": table}) != same
    assert record.checksum({"a": table, "c": table}) != same


def test_tables_of_two_grids_do_not_mix(tmp_path):
    record.record([OTHER], tmp_path, GRID)
    with pytest.raises(InvalidInputError, match="one grid"):
        record.record([JOB], tmp_path, record.Grid())


def test_a_file_source_says_how_to_give_the_file():
    with pytest.raises(ValueError, match="--data-dir"):
        prepare(SOURCES["mnist"])


def test_a_table_file_is_encoded(tmp_path):
    rows = [f"{i},{'red' if i % 2 else 'blue'},{'yes' if i > 9 else 'no'}" for i in range(20)]
    path = tmp_path / "german_credit.csv"
    path.write_text("\n".join(["size,colour,class-label", *rows, ",blue,no"]))
    data = prepare(SOURCES["german_credit"], tmp_path)
    assert data.x_train.shape == (12, 3)  # the size and a column for each colour
    assert data.n_classes == 2
    assert len(data.y_val) == 9


def test_the_command_line_records_what_was_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "Grid", lambda: GRID)
    assert record.main(["--only", "iris-linear-sgd*", "mnist-cnn*", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 recorded" in out
    assert "mnist" in out
    assert [p.name for p in tmp_path.glob("*.npz")] == ["iris.npz"]
    assert record.main(["--only", "nothing"]) == 2


def test_inputs_are_scaled_and_images_kept_whole():
    digits = prepare(SOURCES["digits_even"])
    assert digits.x_train.shape[1] == 64
    assert (digits.scale == 1).all()
    cancer = prepare(SOURCES["breast_cancer"])
    assert cancer.x_train.min() == 0
    assert cancer.x_train.max() == 1
    standardised = (cancer.x_train - cancer.shift) / cancer.scale
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-4)


def test_sequences_are_scaled_as_a_whole():
    data = prepare(SOURCES["tones"])
    assert data.steps == 8
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert len(set(data.shift)) == len(set(data.scale)) == 1
    assert ((data.x_train - data.shift) / data.scale).std() == pytest.approx(1, abs=1e-4)


def test_gain_is_what_the_network_sees_not_the_attack():
    plain, unscaled = (prepare(SOURCES[name]) for name in ("wine", "wine_unscaled"))
    np.testing.assert_array_equal(plain.x_train, unscaled.x_train)
    np.testing.assert_allclose(plain.scale, 10 * unscaled.scale, rtol=1e-6)
    assert plain.eps == unscaled.eps


def test_mislabelled_changes_about_the_share_it_says():
    x, y = syn.teacher(dims=4, hidden=3, n_classes=2)
    same, flipped = mislabelled(lambda: (x, y), 0.4)
    np.testing.assert_array_equal(same, x)
    assert 0.1 < (flipped != y).mean() < 0.3  # half of the draws hit the old label


def test_every_synthetic_problem_has_what_its_recipes_need():
    for name, source in SOURCES.items():
        if source.file is not None:
            continue
        data = prepare(source)
        assert np.isfinite(data.x_train).all(), name
        assert np.bincount(data.y_train).min() >= 5, name
        assert (data.scale > 0).all(), name
        if data.steps is not None:
            assert data.x_train.shape[1] % data.steps == 0, name
        needs_steps = any(r.startswith(("cnn", "transformer")) for r in source.recipes)
        assert not needs_steps or data.steps is not None, name
        assert not any(r.startswith("cnn") for r in source.recipes) or source.side, name


def test_brackets_are_balanced():
    x, depth = seq.brackets(steps=10, n_classes=2)
    move = x.reshape(-1, 10, 2) @ [1, -1]
    height = move.cumsum(axis=1)
    assert (height >= 0).all()
    assert (height[:, -1] == 0).all()
    assert (height.max(axis=1)[depth == 1] > height.max(axis=1)[depth == 0].max()).all()


def test_marks_and_events_by_hand():
    x, label = seq.marked(steps=5, symbols=3)
    tokens = x.reshape(-1, 5, 4)
    assert (tokens[..., 3].sum(axis=1) == 1).all()
    marked = (tokens[..., :3] * tokens[..., 3:]).sum(axis=1)
    np.testing.assert_array_equal(marked.argmax(axis=1), label)
    x, first = seq.events(steps=6, channels=3, noise=0.0)
    at = x.reshape(-1, 6, 3).argmax(axis=1)
    np.testing.assert_array_equal(at.argmin(axis=1), first)


def test_constant_columns_of_tables_are_dropped():
    x = np.column_stack([np.arange(50.0), np.full(50, 3.0)])
    data = prepare(Source("made", lambda: (x, np.arange(50) % 2)))
    assert data.x_train.shape[1] == 1


def test_normalised_regret_by_hand():
    losses = np.array([[[0.2, 0.9], [np.inf, 0.4]], [[0.4, 0.5], [3.0, 0.8]]])
    expected = np.array([[0.0, 0.4 / 0.7], [1.0, 0.3 / 0.7]])  # best cell .3, chance 1
    np.testing.assert_allclose(tasks.normalised_regret(losses, 1.0), expected)
    assert tasks.normalised(losses, 1.0)[0, 0, 0] == pytest.approx(-0.1 / 0.7)


def test_no_family_is_in_two_splits_and_every_source_is_in_one():
    split = tasks.read_split()
    assert list(split) == ["train", "validation", "test"]
    families = [family for part in split.values() for family in part]
    assert len(families) == len(set(families))
    assert set(families) == {source.family for source in SOURCES.values()}


def test_every_committed_table_is_whole_and_in_one_split():
    manifest = json.loads((tasks.TABLES / "manifest.json").read_text())["tasks"]
    families = {path.stem: read_family(path) for path in tasks.TABLES.glob("*.npz")}
    assert set(families) == {family for part in tasks.read_split().values() for family in part}
    assert {name for found in families.values() for name in found} == set(manifest)
    for family, found in families.items():
        for name, arrays in found.items():
            assert manifest[name]["family"] == family, name
            assert record.checksum(arrays) == manifest[name]["sha256"], name
    splits = [{task.name for task in tasks.load(split)} for split in tasks.read_split()]
    assert sum(len(names) for names in splits) == len(manifest)
    assert sum(path.stat().st_size for path in tasks.TABLES.iterdir()) < 18e6


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_committed_task_can_be_tuned(split):
    for task in tasks.load(split):
        regret = tasks.normalised_regret(task.val_loss[..., -1], task.chance)
        assert regret.shape == (24, 5), task.name
        assert regret.min() == 0, task.name
        assert regret.max() > 0.5, task.name  # some settings are bad
        best = np.minimum(task.val_loss[..., -1], task.chance).mean(axis=0).min()
        assert best < 0.95 * task.chance, task.name  # and some learn something
        assert not np.isnan(task.val_loss).any(), task.name
        clean = task.val_accuracy[..., task.fgsm_epochs - 1]
        assert (task.fgsm_accuracy <= clean + 1e-3).all(), task.name
