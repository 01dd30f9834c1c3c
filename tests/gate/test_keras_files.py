"""Keras' files with layers of one's own: the weights alone are read, never a layer's code."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_commands import report, run
from gate_models import ROBUST, bias, save_keras

from rlhf_tune.errors import ArtifactError, InvalidInputError
from rlhf_tune.gate.artifact import ModelFile

pytest.importorskip("torch")
pytest.importorskip("jsonschema")
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("_place"),
]

BUILD = f"{__name__}:build"


class Shift(keras.layers.Layer):  # type: ignore[misc]
    """A layer of one's own, with a weight."""

    def build(self, shape: Any) -> None:
        self.by = self.add_weight(shape=shape[1:], initializer="zeros", name="by")

    def call(self, x: Any) -> Any:
        return x - self.by


def build(units: int = 2, own: bool = True) -> Any:
    """A factory: a model with the layer, and any weights."""
    first = [Shift()] if own else []
    dense = keras.layers.Dense(units, activation="softmax")
    return keras.Sequential([keras.Input((4,)), *first, keras.layers.Dropout(0.5), dense])


def wider() -> Any:
    """A factory: a model of another shape."""
    return build(units=3)


def without() -> Any:
    """A factory: a model that lacks the layer."""
    return build(own=False)


def smaller() -> Any:
    """A factory: a model of which all layers are in the file, but not the other way round."""
    return keras.Sequential([keras.Input((4,)), Shift()])


def unbuilt() -> Any:
    """A factory: a model that does not know its inputs."""
    return keras.Sequential([Shift(), keras.layers.Dense(2)])


@pytest.fixture
def _saved(_place: None) -> None:
    model = build()
    model.set_weights([np.full(4, 0.5), ROBUST, np.zeros(2)])  # the same function as elsewhere
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((2, 4)), np.zeros(2), epochs=1, verbose=0)  # there is an optimizer's state
    model.set_weights([np.full(4, 0.5), ROBUST, np.zeros(2)])
    model.save("own.keras")
    model.save("own.KERAS.keras")
    model.save_weights("own.weights.h5")


@pytest.mark.usefixtures("_saved")
@pytest.mark.parametrize("name", ["own.keras", "own.weights.h5"])
def test_a_function_builds_the_layers_and_the_file_gives_the_weights(name: str) -> None:
    assert run(name, "--factory", BUILD, "--quiet", "--report", "r.json") == 0
    assert report()["requirements"][0]["value"] == 0.95
    assert report()["artifact"]["factory"] == BUILD
    model, identity = ModelFile.read(name).load(BUILD)
    np.testing.assert_array_equal(model.get_weights()[1], ROBUST)
    assert identity.weights_digest == ModelFile.read(name).load(BUILD)[1].weights_digest


@pytest.mark.usefixtures("_saved")
def test_without_the_function_it_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"refuses the file in safe mode: .*; .* --factory"):
        ModelFile.read("own.keras").load()
    with pytest.raises(InvalidInputError, match=r"holds weights alone; .* --factory"):
        ModelFile.read("own.weights.h5").load()


@pytest.mark.usefixtures("_saved")
@pytest.mark.parametrize("name", ["own.keras", "own.weights.h5"])
@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("wider", "weights must fit the model that the function builds, but: "),
        ("without", "weights must"),
        ("smaller", r"but differ in \['layers/"),
        ("unbuilt", "not yet been built"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, factory: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        ModelFile.read(name).load(f"{__name__}:{factory}")


@pytest.mark.usefixtures("_saved")
def test_a_function_of_something_else_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"for a keras\.Model, but got Linear"):
        ModelFile.read("own.keras").load("gate_models:linear")


def test_files_in_capitals() -> None:
    save_keras(Path("m.keras"), ROBUST).rename("m.KERAS")
    assert run("m.KERAS", "--quiet") == 0


def test_the_digest_of_a_model_s_weights_is_the_same_either_way() -> None:
    save_keras(Path("m.keras"), ROBUST)
    _, plain = ModelFile.read("m.keras").load()
    _, built = ModelFile.read("m.keras").load(f"{__name__}:own_linear")
    assert (
        built.weights_digest == plain.weights_digest == ModelFile.read("m.keras").weights_digest()
    )


def own_linear() -> Any:
    """A factory: what `save_keras` saved, with other weights."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.set_weights([ROBUST + 1, bias(ROBUST) - 1])
    return model


@pytest.mark.usefixtures("_saved")
def test_no_code_of_the_file_runs_beside_the_function(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    config = (
        '{"module": "os", "class_name": "mkdir", "config": {"path": "' + str(trace) + '"}, '
        '"registered_name": "mkdir"}'
    )
    with zipfile.ZipFile("own.keras") as old, zipfile.ZipFile("evil.keras", "w") as new:
        for entry in old.infolist():
            content = config if entry.filename == "config.json" else old.read(entry)
            new.writestr(entry.filename, content)
    model, _ = ModelFile.read("evil.keras").load(BUILD)
    assert type(model.layers[0]) is Shift
    assert not trace.exists()


def h5(fill: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def external(file: Any) -> None:
    file.create_dataset("layers/dense/vars/0", (4, 2), "f4", external=[("/etc/hostname", 0, 32)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4, 2))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def bomb(file: Any) -> None:
    file.create_dataset("layers/dense/vars/0", (2**17, 2**17), "f4", chunks=(2**10, 2**10))


def linked(file: Any) -> None:
    file["layers"] = h5py.ExternalLink("/etc/hostname", "/")


@pytest.mark.parametrize("fill", [external, virtual, bomb, linked, lambda file: None])
def test_weights_that_the_file_does_not_hold_are_refused(fill: Any) -> None:
    Path("m.weights.h5").write_bytes(h5(fill))
    with pytest.raises(ArtifactError, match=r"not held by the file itself|holds none"):
        ModelFile.read("m.weights.h5").load(f"{__name__}:own_linear")


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
@pytest.mark.parametrize("content", [b"x", b"PK\x05\x06" + b"\0" * 18, b"\x89HDF\r\n\x1a\n"])
def test_a_damaged_file_is_refused(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(ArtifactError):
        ModelFile.read(name).load(BUILD)
