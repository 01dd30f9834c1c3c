"""The examples run as a user runs them, with a tiny budget; so do the benchmarks' commands."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORK = "rlhf_tune/pretrained/qmap.safetensors"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_drop_into_optuna() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("cleverhans")
    done = run("examples/drop_into_optuna.py", "--trials", "3", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("use {")
    assert "batch_size" in done.stdout


@pytest.mark.parametrize("framework", [pytest.param("keras", marks=pytest.mark.keras), "torch"])
def test_mnist_cnn(framework: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("cleverhans")
    pytest.importorskip(framework)
    small = ("--train", "300", "--epochs", "2", "--eps", "0.01", "--at-least", "0.1")
    small += ("--policy", "dqn") if framework == "torch" else ()
    done = run("examples/mnist_cnn.py", "--framework", framework, *small)
    assert done.returncode == 0, done.stderr
    assert "learning rate" in done.stdout
    assert "batch size 32" in done.stdout
    assert "held out: accuracy 0." in done.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            ("agents", "--on", "tables", "--episodes", "2", "--tables", "2", "--seeds", "1"),
            "Q-learning",
        ),
        (("agents", "--on", "runs", "--runs", "scripted", "--steps", "20"), "always stay"),
        (("learned_moves", "--tasks", "2", "--settings", "plain"), "not ahead"),
        (
            (
                "training_run",
                "--tasks",
                "2",
                "--seeds",
                "1",
                "--steps",
                "48",
                "--methods",
                "default",
            ),
            "default",
        ),
        (("latency", "--past", "5", "--repeats", "2"), "GPSampler"),
        (("network", NETWORK, "--tasks", "2", "--trials", "3"), "gain on expected improvement"),
        (("sampler", "--tasks", "2", "--seeds", "1", "--trials", "3"), "random moves"),
    ],
    ids=lambda w: w[0] if isinstance(w, tuple) else "",
)
def test_benchmarks_print_a_table(words: tuple[str, ...], shown: str) -> None:
    done = run("-m", f"benchmarks.{words[0]}", *words[1:])
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert "nan" not in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        *(
            "agents",
            "epochs",
            "learned_moves",
            "latency",
            "network",
            "training_run",
            "pretrain_moves",
            "record",
        ),
        *("robustness", "training_run_safety", "safety", "sampler"),
    ],
)
def test_benchmarks_teach(name: str) -> None:
    done = run("-m", f"benchmarks.{name}", "--help")
    assert done.returncode == 0
    assert f"python -m benchmarks.{name}" in done.stdout
