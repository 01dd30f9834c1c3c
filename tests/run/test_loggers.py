"""Runs as TensorBoard and MLflow see them; MLflow has an environment of its own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_tune.run import Epoch
from rlhf_tune.run.loggers import to_mlflow, to_tensorboard
from rlhf_tune.safety.measurement import Measurement

ROOT = Path(__file__).parents[2]


def epochs() -> list[Epoch]:
    """Two epochs: a measured constraint, then an untrusted one after a rollback."""
    kept = Measurement("robust (fgsm)", 0.8, 0.7, (0.75, 1.0), 100, -0.05)
    doubted = Measurement(
        "robust (fgsm)", 0.9, 0.7, (0.8, 1.0), 100, math.inf, trusted=False, reasons=("masked",)
    )
    logs = {"val_loss": 0.5, "learning_rate": 1e-3, "move": "lr x 2", "rolled_back": 0.0}
    return [
        Epoch(0, {**logs, "robust (fgsm)": 0.8}, {"robust (fgsm)": kept}),
        Epoch(
            1,
            {**logs, "move": "stay", "rolled_back": 2, "robust (fgsm)": 0.9, "other": math.nan},
            {"robust (fgsm)": doubted},
        ),
    ]


class Client:
    """Refuses what MLflow refuses."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, int]] = []

    def log_metric(self, key: str, value: float, step: int) -> None:
        assert math.isfinite(value)
        assert not set(key) & set("()")
        self.told.append((key, value, step))


def test_mlflow_is_told_costs_moves_and_rollbacks_and_nothing_infinite() -> None:
    client = Client()
    log = to_mlflow(client)
    for epoch in epochs():
        log(epoch)
    told = {(key, step): value for key, value, step in client.told}
    assert told["robust _fgsm_/cost", 0] == pytest.approx(-0.05)
    assert ("robust _fgsm_/cost", 1) not in told  # infinite
    assert told["robust _fgsm_/trusted", 1] == 0
    assert told["rolled_back", 1] == 2
    assert told["move/lr x 2", 0] == told["move/stay", 1] == 1
    assert ("other", 1) not in told


def test_keras_logs_are_taken_as_they_are() -> None:
    client = Client()
    to_mlflow(client)(3, {"loss": 0.5, "robust": 0.7})
    assert client.told == [("loss", 0.5, 3), ("robust", 0.7, 3)]


def test_tensorboard_shows_scalars_and_moves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        log = to_tensorboard(writer)
        for epoch in epochs():
            log(epoch)
    found = EventAccumulator(str(tmp_path)).Reload()
    scalars = found.Tags()["scalars"]
    assert {"val_loss", "learning_rate", "rolled_back"} <= set(scalars)
    cost = next(name for name in scalars if name.endswith("/cost"))
    assert found.Scalars(cost)[0].value == pytest.approx(-0.05)
    assert math.isinf(found.Scalars(cost)[1].value)
    assert any("move" in name for name in found.Tags()["tensors"])


def test_a_real_run_is_logged_once_an_epoch() -> None:
    torch = pytest.importorskip("torch")
    from rlhf_tune_integrations.pytorch import fit

    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = (x[:, 0] > 0).long()
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    client = Client()
    history = fit(
        model,
        optimizer,
        torch.nn.functional.cross_entropy,
        (x, y),
        (x, y),
        epochs=3,
        verbose=0,
        on_epoch=to_mlflow(client),
    )
    steps = [step for key, _, step in client.told if key == "val_loss"]
    assert steps == history.epoch


MLFLOW = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow
from rlhf_tune.run.loggers import to_mlflow
from rlhf_tune.gate.registry import TAG, tag_in_mlflow
sys.path.insert(0, sys.argv[1])
from test_loggers import epochs

mlflow.set_tracking_uri(sys.argv[2])
with mlflow.start_run() as run:
    log = to_mlflow()
    for epoch in epochs():
        log(epoch)
client = mlflow.MlflowClient()
by_client = client.create_run(run.info.experiment_id).info.run_id
for epoch in epochs():
    to_mlflow(client, by_client)(epoch)
client.create_registered_model("shop")
version = client.create_model_version("shop", "models", run.info.run_id).version
found = {}
for name, report in json.loads(sys.argv[3]).items():
    try:
        tag_in_mlflow("shop", version, model=sys.argv[4], report=report)
    except Exception as exc:
        found[name] = type(exc).__name__
    else:
        found[name] = client.get_model_version("shop", version).tags[TAG]
left = client.get_model_version("shop", version).tags
metrics = [dict(client.get_run(r).data.metrics) for r in (run.info.run_id, by_client)]
print(json.dumps({"metrics": metrics, "found": found, "left": sorted(left)}))
"""


@pytest.mark.slow
def test_mlflow_itself(tmp_path: Path) -> None:
    """MLflow pins packages lower than this project does, so it has an environment of its own."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    needs = ["mlflow-skinny", "sqlalchemy", "alembic", "numpy", "scipy", "safetensors", "rich"]
    pip = [environment / "bin" / "python", "-m", "pip", "install", "-q", *needs, "pytest"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mlflow-skinny cannot be installed: {done.stderr[-300:]}")
    model, reports = tmp_path / "model.bin", {}
    model.write_bytes(b"weights")
    for verdict in ("pass", "refused"):
        reports[verdict] = str(_report(tmp_path / f"{verdict}.json", model, verdict))
    words = [str(Path(__file__).parent), f"sqlite:///{tmp_path}/mlflow.db"]
    words += [json.dumps(reports), str(model)]
    done = subprocess.run(
        [environment / "bin" / "python", "-c", MLFLOW, *words],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["metrics"][0] == said["metrics"][1]
    assert said["metrics"][0]["robust _fgsm_/trusted"] == 0
    assert said["metrics"][0]["robust _fgsm_/cost"] == pytest.approx(-0.05)
    assert said["found"] == {"pass": "pass", "refused": "InvalidInputError"}
    assert "rlhf_tune.gate" not in said["left"]  # the later refusal took it away


def _report(path: Path, model: Path, verdict: str) -> Path:
    from rlhf_tune.gate import GateReport
    from rlhf_tune.gate.artifact import ModelFile

    value = 0.8 if verdict == "pass" else 0.5
    measured = Measurement("accuracy", value, 0.7, (value - 0.05, 1.0), 100, 0.75 - value)
    identity = ModelFile.read(model).identity
    path.write_text(GateReport((measured,), identity).to_json())
    return path
