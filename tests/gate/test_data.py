"""The samples of a gate: which files hold them, and what is no evidence in them."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_commands import refusal, report, run, run_torch
from gate_models import X, Y, save_data

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import npz
from rlhf_tune.safety import samples

torch = pytest.importorskip("torch")
pytest.importorskip("jsonschema")

pytestmark = pytest.mark.usefixtures("_place")

ALL = (0.0, 1.0)


# Files


def test_inputs_and_labels_may_be_files_of_their_own() -> None:
    np.save("x.npy", X)
    np.save("y.npy", Y)
    assert run_torch("--report", "pair.json", "--data", "x.npy", "--labels", "y.npy") == 0
    assert run_torch("--report", "npz.json") == 0
    pair, npz_ = report("pair.json"), report("npz.json")
    assert pair["requirements"] == npz_["requirements"]
    assert pair["inputs"]["data"]["digest"] == npz_["inputs"]["data"]["digest"]
    assert pair["inputs"]["data"]["name"] == "x.npy"
    assert pair["inputs"]["data"]["labels"]["name"] == "y.npy"
    assert pair["inputs"]["spec"]["labels"] == "y.npy"


def test_so_may_those_of_members() -> None:
    np.save("x.npy", np.where(np.arange(4) == 0, X, 1 - X))
    np.save("y.npy", Y)
    words = ("--members", "x.npy", "--max-leakage", "0.1", "--report", "r.json")
    assert run_torch(*words, "--member-labels", "y.npy") == 0
    assert report()["inputs"]["members"]["labels"]["name"] == "y.npy"
    assert run_torch(*words) == 2
    assert "--member-labels" in report()["error"]


def test_paths_of_labels_are_relative_to_the_spec_file() -> None:
    Path("shop").mkdir()
    np.save("shop/x.npy", X)
    np.save("shop/y.npy", Y)
    Path("shop/gate.toml").write_text('data = "x.npy"\nlabels = "y.npy"\n')
    loaded = npz.load("shop/x.npy", "shop/y.npy", bounds=ALL)
    assert len(loaded.x) == 200
    from rlhf_tune.gate import spec

    assert spec.gather("shop/gate.toml", {})["labels"] == Path("shop/y.npy")


def raw(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (raw(X), None, "name the file of the labels: --labels y.npy"),
        (raw(X), b"", "'y.npy' must be an npy file of a plain array"),
        (raw(X), raw(Y[:9]), "`x` and `y` must have the same length"),
        (raw(X), raw(np.array(3)), "`y` must have the shape [N]"),
        (raw(X), raw(np.array([None] * 200)), "Object arrays cannot be loaded"),
        (raw(X), pickle.dumps([1]), "Object arrays cannot be loaded"),
        (raw(X)[:300], raw(Y), "'x.npy' must be an npy file"),
        (raw(np.array(0.5)), raw(Y), "`x` must have the shape [N, ...]"),
        (raw(X[:0]), raw(Y[:0]), "with N >= 1"),
        (raw(np.full_like(X, np.nan)), raw(Y), "`x` must be finite"),
        (b"x,y\n1,2\n", raw(Y), "go with an npy file of inputs, but 'x.npy' is none"),
    ],
)
def test_bad_files_of_their_own_are_2(
    x: bytes, y: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.npy").write_bytes(x)
    Path("y.npy").write_bytes(y or b"")
    labels = () if y is None else ("--labels", "y.npy")
    assert run_torch("--data", "x.npy", *labels) == 2
    err = refusal(capsys)
    assert says in err
    assert "allow_pickle" not in err


def test_labels_beside_an_npz_file_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("y.npy", Y)
    assert run_torch("--labels", "y.npy") == 2
    assert "the labels 'y.npy' go with an npy file" in refusal(capsys)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_floats_of_any_width_are_taken(dtype: Any) -> None:
    save_data(Path("data.npz"), x=X.astype(dtype))
    assert run_torch() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_integers_of_any_width_are_taken(dtype: Any) -> None:
    save_data(Path("data.npz"), x=np.rint(X * 255).astype(dtype))
    words = ("--bounds", "0", "255", "--eps", "1", "--min-robust-accuracy", "0.01", "--sweep", "0")
    assert run_torch(*words) in (0, 1, 3)


def test_arrays_that_nobody_asks_for_are_not_read() -> None:
    np.savez("data.npz", x=X, y=Y, meta=np.array([{"a": 1}], dtype=object))
    assert run_torch() == 0


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_member_that_is_no_array_is_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile("data.npz", "w") as archive:
        for key, array in {"x": X, "y": Y}.items():
            archive.writestr(f"{key}.npy", b"text" if key == name else raw(array))
    assert run_torch() == 2
    assert f"`{name}` is no array" in refusal(capsys)


def test_a_file_that_would_fill_the_memory_is_refused_unread(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed("data.npz", x=np.zeros((9000, 2000), np.float32), y=np.zeros(9000, int))
    monkeypatch.setattr("numpy.load", None)
    assert run_torch() == 2
    assert "MB, but would unpack to 0.0671 GiB" in refusal(capsys)


def test_compressed_data_is_taken() -> None:
    np.savez_compressed("data.npz", x=X, y=Y)
    assert run_torch() == 0


# Evidence


def test_samples_that_repeat_others_count_once(capsys: pytest.CaptureFixture[str]) -> None:
    twenty = slice(20, 40)  # of which the model gets all right
    save_data(Path("data.npz"), x=np.repeat(X[twenty], 30, 0), y=np.repeat(Y[twenty], 30))
    words = ("--factory", "gate_models:linear", "--report", "r.json", "--markdown", "r.md")
    assert run("robust.safetensors", *words, "--min-robust-accuracy", "0.9") == 3
    assert "at least 29 samples are needed to certify 0.9" in report()["error"]
    assert run("robust.safetensors", *words) == 0
    assert "580 of 600 samples repeat others exactly" in capsys.readouterr().err
    assert "580 of 600 samples repeat others exactly" in Path("r.md").read_text()
    assert report()["requirements"][0]["n"] == report()["inputs"]["data"]["n"] == 20
    assert report()["inputs"]["data"]["repeated"] == 580


def test_repeated_samples_change_nothing_at_all() -> None:
    order = np.random.default_rng(0).permutation(np.r_[0:200, 0:200, 0:50])
    first = np.sort([int(np.flatnonzero(order == row)[0]) for row in range(200)])
    save_data(Path("twice.npz"), x=X[order], y=Y[order])
    save_data(Path("once.npz"), x=X[order][first], y=Y[order][first])
    for name in ("once", "twice"):
        words = ("--data", f"{name}.npz", "--max-samples", "90", "--report", f"{name}.json")
        assert run_torch(*words) == 0
    assert report("once.json")["requirements"] == report("twice.json")["requirements"]
    assert report("twice.json")["inputs"]["data"]["n"] == 90


def test_a_sample_of_two_groups_is_evidence_for_both_and_counts_once_for_all() -> None:
    groups = np.repeat(["a", "b"], 200)
    save_data(Path("data.npz"), x=np.r_[X, X], y=np.r_[Y, Y], groups=groups)
    assert run_torch("--report", "r.json") == 0
    counts = {row["name"]: row["n"] for row in report()["requirements"]}
    assert counts == {
        "robust_accuracy": 200,
        "robust_accuracy[groups=a]": 200,
        "robust_accuracy[groups=b]": 200,
    }


@pytest.mark.parametrize(
    ("x", "y", "rows"),
    [
        ([[1.0], [2.0], [1.0]], [0, 0, 0], [0, 1]),
        ([[1.0], [1.0]], [0, 1], [0, 1]),
        ([[0.0], [-0.0]], [1, 1], [0]),
        ([[[3, 4]], [[4, 3]], [[3, 4]]], [1, 1, 1], [0, 1]),
    ],
)
def test_what_counts_as_the_same_sample(x: Any, y: Any, rows: list[int]) -> None:
    assert sorted(samples.distinct_rows(np.array(x), np.array(y))) == rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_members_that_are_in_the_holdout_are_refused(dtype: Any) -> None:
    others = 1 - X
    mixed = np.r_[others[:150], X[:7]].astype(dtype)
    save_data(Path("train.npz"), x=mixed, y=np.r_[Y[:150], 1 - Y[:7]])
    words = ("--members", "train.npz", "--max-leakage", "0.1", "--report", "r.json")
    assert run_torch(*words) == 2
    assert "but 7 of 200 are among the members" in report()["error"]


# Groups


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (np.where(np.arange(200) < 3, "", "a"), "but 3 of them have none"),
        (np.where(np.arange(200) < 4, "  ", "a"), "but 4 of them have none"),
        (np.array(["a", None] * 100, dtype=object).astype(str), "but 100 of them have none"),
        (np.where(np.arange(200) < 5, np.nan, 1.0), "but 5 of them have none"),
        (np.where(np.arange(200) < 6, b"", b"b"), "but 6 of them have none"),
        (np.where(np.arange(200) < 7, "NaN", "b"), "but 7 of them have none"),
        (np.array([None, "a"] * 100, dtype=object), "None and NaN included"),
        (np.ones(200), "but got float64; if they are whole, astype(int)"),
        (np.array(["ä".encode()] * 200), "bytes that are no ASCII"),
        (np.ones((200, 2), int), "of shape (200, 2)"),
        (np.array(["2020-01-01"] * 200, "M8[D]"), "but got datetime64[D]"),
    ],
)
def test_groups_must_be_known(groups: Any, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("data.npz", x=X, y=Y, groups=groups)
    assert run_torch() == 2
    assert says in refusal(capsys)


def test_all_groups_that_are_too_small_are_named_at_once_before_a_model_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlhf_tune.gate.artifact.ModelFile.load", None)
    sizes = np.repeat(["a", "b", "c"], [5, 13, 182])
    save_data(Path("data.npz"), groups=sizes)
    assert run_torch() == 3
    err = refusal(capsys)
    for name, n in {"a": 5, "b": 13}.items():
        assert f"robust_accuracy[groups={name}]: at least 14 samples" in err
        assert f"but there are {n}" in err
    assert "groups=c" not in err


def test_a_column_of_names_is_not_listed_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    save_data(Path("data.npz"), groups=np.arange(200))
    assert run_torch() == 3
    assert "; and 190 more" in refusal(capsys)


def test_a_group_of_copies_is_too_small() -> None:
    x, y = np.r_[X, np.repeat(X[20:23], 40, 0)], np.r_[Y, np.repeat(Y[20:23], 40)]
    save_data(Path("data.npz"), x=x, y=y, groups=np.repeat(["many", "few"], [200, 120]))
    assert run_torch("--report", "r.json") == 3
    assert "groups=few]: at least 14 samples" in report()["error"]
    assert "but there are 3" in report()["error"]


def test_labels_are_asked_for_only_beside_arrays_of_inputs() -> None:
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        npz.load("x.npy", "y.npy", bounds=ALL)
