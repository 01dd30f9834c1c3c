"""The program end to end, as a user's pipeline runs it, on torch and Keras models."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gate_commands import FLOOR, refusal, report, run, verify
from gate_models import FRAGILE, ROBUST, bias, save_keras

torch = pytest.importorskip("torch")
for package in ("jsonschema", "matplotlib"):
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("_place")

HERE = Path(__file__).parent


def program(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from rlhf_tune.cli.main import main; sys.exit(main())"
    shutil.copy(HERE / "gate_models.py", "shop.py")  # the factory lies in the current folder
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(("name", "status"), [("robust", 0), ("fragile", 1)])
def test_the_program_decides_on_torch_models(name: str, status: int) -> None:
    words = ("--data", "data.npz", *FLOOR, "--factory", "shop:linear", "--report", "r.json")
    done = program("gate", f"{name}.safetensors", *words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert report()["exit_code"] == status


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' saving
class TestKeras:
    @pytest.fixture(autouse=True)
    def _models(self, _place: None) -> None:
        pytest.importorskip("keras")
        save_keras(Path("robust.keras"), ROBUST)
        save_keras(Path("fragile.keras"), FRAGILE)

    @pytest.mark.parametrize(("name", "status"), [("robust", 0), ("fragile", 1)])
    def test_the_program_decides_on_keras_models(self, name: str, status: int) -> None:
        words = ("--data", "data.npz", *FLOOR, "--report", "r.json", "--quiet")
        done = program("gate", f"{name}.keras", *words)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
        assert report()["exit_code"] == status

    def test_masked_gradients_are_3(self) -> None:
        import keras

        inputs = keras.Input((4,))
        dense = keras.layers.Dense(2)
        steps = keras.layers.ReLU(max_value=1.0)(keras.layers.Rescaling(1e4)(dense(inputs)))
        model = keras.Model(inputs, steps)
        dense.set_weights([FRAGILE, bias(FRAGILE)])
        model.save("steps.keras")
        assert run("steps.keras", "--quiet", "--report", "r.json") == 3
        assert "masked gradients" in report()["requirements"][0]["remark"]

    def test_a_lambda_layer_is_4(self, capsys: pytest.CaptureFixture[str]) -> None:
        import keras

        inputs = keras.Input((4,))
        keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, :2])(inputs)).save("lambda.keras")
        assert run("lambda.keras", "--quiet") == 4
        assert "`Lambda` layer" in refusal(capsys)

    def test_the_same_weights_saved_again_are_explained(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("robust.keras", "--quiet", "--report", "r.json") == 0
        assert verify("robust.keras", "--quiet") == 0
        with zipfile.ZipFile("robust.keras") as old, zipfile.ZipFile("again.keras", "w") as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        assert verify("again.keras") == 1
        assert "the file differs and the weights do not" in refusal(capsys)
        content = bytearray(Path("robust.keras").read_bytes())
        content[len(content) // 2] ^= 1
        Path("robust.keras").write_bytes(content)
        assert verify("robust.keras") == 1
