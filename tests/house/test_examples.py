"""The examples run as a user runs them, with a tiny budget."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


def test_fit_in_a_trial() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("cleverhans")
    done = run("examples/fit_in_a_trial.py", "--trials", "3", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("start from {")
    assert done.stderr.count("finished with value") == 3
    assert "width" in done.stdout
    assert "lr" not in done.stdout


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


@pytest.mark.keras
def test_rlhf_keras_tokens() -> None:
    pytest.importorskip("keras")
    pytest.importorskip("stable_baselines3")
    done = run("examples/rlhf_keras_tokens.py", "--steps", "4096")
    assert done.returncode == 0, done.stderr
    before, after = (float(x) for x in re.findall(r"gold utility (-?[0-9.]+)", done.stdout))
    assert after > before + 1
