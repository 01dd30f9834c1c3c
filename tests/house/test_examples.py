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
    done = run("examples/drop_into_optuna.py", "--trials", "3", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("use {")
    assert "batch_size" in done.stdout


def test_fit_in_a_trial() -> None:
    pytest.importorskip("sklearn")
    done = run("examples/fit_in_a_trial.py", "--trials", "3", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("start from {")
    assert done.stderr.count("finished with value") == 3
    assert "width" in done.stdout
    assert "lr" not in done.stdout


def test_fine_tune_layers() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    done = run("examples/fine_tune_layers.py", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert "compared: " in done.stdout
    assert done.stdout.count("prune") == done.stdout.count("fuse") == 4


@pytest.mark.slow
@pytest.mark.parametrize("framework", [pytest.param("keras", marks=pytest.mark.keras), "torch"])
def test_mnist_cnn(framework: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip(framework)
    small = ("--train", "300", "--epochs", "2", "--eps", "0.01", "--at-least", "0.1")
    small += ("--policy", "dqn") if framework == "torch" else ()
    done = run("examples/mnist_cnn.py", "--framework", framework, *small)
    assert done.returncode == 0, done.stderr
    assert "learning rate" in done.stdout
    assert "batch size 32" in done.stdout
    assert "held out: accuracy 0." in done.stdout


@pytest.mark.slow
def test_loan() -> None:
    pytest.importorskip("stable_baselines3")
    done = run("examples/loan.py", "--steps", "400", "--penalties", "20")
    assert done.returncode == 0, done.stderr
    assert "a good customer is worth 350, a bad one -100" in done.stdout
    assert "the linear program earns 132.2 a customer" in done.stdout
    done = run("examples/loan.py", "--steps", "400", "--penalties", "--interest", "0.1")
    assert "a good customer is worth -10, a bad one -340" in done.stdout
    assert "nobody is worth a loan" in done.stdout


@pytest.mark.slow
def test_what_is_learned_of_loans_is_near_the_exact_optimum() -> None:
    """The figures that can be worked out by hand, or by a linear program."""
    pytest.importorskip("stable_baselines3")
    said = run("examples/loan.py").stdout
    lent = re.findall(r"good (\S+), to bad (\S+); values (\S+) and (\S+)", said)
    free, cheap, dear = (tuple(map(float, found)) for found in lent)
    for good, bad, worth, nothing in (free, cheap):
        assert good > 0.9
        assert bad < 0.1
        assert worth == pytest.approx(350, abs=70)
        assert nothing == pytest.approx(0, abs=20)
    assert min(dear[:2]) > 0.9
    share, gap, multiplier = re.findall(r"\((\d+)%\), gap (\S+), multiplier (\S+)", said)[0]
    assert float(share) >= 85
    assert float(gap) <= 0.13
    assert float(multiplier) == pytest.approx(40, abs=20)
    idle = run("examples/loan.py", "--penalties", "--gap", "0.6").stdout
    assert float(re.findall(r"multiplier (\S+)", idle)[0]) < 4
    literature = run("examples/loan.py", "--interest", "0.1", "--penalties", "0").stdout
    good, bad, *_ = map(float, re.findall(r"good (\S+), to bad (\S+);", literature)[0])
    assert max(good, bad) < 0.1


@pytest.mark.slow
def test_credit(tmp_path: Path) -> None:
    for package in ("fairlearn", "matplotlib"):
        pytest.importorskip(package)
    report, picture = tmp_path / "r.md", tmp_path / "p.png"
    small = ("--steps", "100", "--report", str(report), "--picture", str(picture))
    done = run("examples/credit.py", *small)
    assert done.returncode == 0, done.stderr
    for method in ("weight 0 ", "reach=True ", "ExponentiatedGradient 0.05", "ThresholdOptimizer"):
        assert method in done.stdout
    assert "selection rate" in report.read_text()
    assert picture.stat().st_size > 5000
    table = tmp_path / "t.csv"
    rows = "".join(f"{i % 2},{'mf'[i % 3 == 0]},{i % 7},{'xyz'[i % 3]}\n" for i in range(400))
    table.write_text("class-label,sex,number,text\n" + rows)
    done = run("examples/credit.py", "--data", str(table), "--alone", "--steps", "20")
    assert done.returncode == 0, done.stderr
    assert "no run under the ceiling: gap: groups that are treated alike could lie" in done.stdout


@pytest.mark.slow
@pytest.mark.keras
def test_rlhf_keras_tokens() -> None:
    pytest.importorskip("keras")
    pytest.importorskip("stable_baselines3")
    done = run("examples/rlhf_keras_tokens.py", "--steps", "4096")
    assert done.returncode == 0, done.stderr
    before, after = (float(x) for x in re.findall(r"gold utility (-?[0-9.]+)", done.stdout))
    assert after > before + 1


def test_looking(tmp_path: Path) -> None:
    for needed in ("sklearn", "cleverhans", "matplotlib"):
        pytest.importorskip(needed)
    study, course = tmp_path / "study.png", tmp_path / "run.png"
    small = ("--trials", "4", "--epochs", "4")
    done = run("examples/looking.py", *small, "--study", str(study), "--run", str(course))
    assert done.returncode == 0, done.stderr
    assert "candidate moves of the next trial" in done.stdout
    assert "unsafe trials: " in done.stdout
    assert "epoch " in done.stdout
    assert "P(safe)" in done.stderr
    assert study.read_bytes()[:4] == course.read_bytes()[:4] == b"\x89PNG"


def test_the_pictures_of_the_docs_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs").glob("*.png")}
    assert {"study.png", "run.png"} <= sizes.keys()
    assert max(sizes.values()) < 150_000


def test_sklearn_estimators() -> None:
    pytest.importorskip("sklearn")
    done = run("examples/sklearn_estimators.py", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    scores = re.findall(r"(.*): score (\S+),", done.stdout)
    names = ["logistic regression", "SVM", "network", "linear regression"]
    assert [name for name, _ in scores] == names
    assert all(float(score) > 0.85 for _, score in scores[:3])


def test_skorch_net() -> None:
    for package in ("sklearn", "skorch"):
        pytest.importorskip(package)
    done = run("examples/skorch_net.py", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    constant, default = map(float, re.findall(r"accuracy (\S+)", done.stdout))
    assert default > constant


@pytest.mark.slow
def test_lightning_module() -> None:
    for package in ("sklearn", "lightning", "cleverhans"):
        pytest.importorskip(package)
    done = run("examples/lightning_module.py", "--epochs", "2", "--at-least", "0.3")
    assert done.returncode == 0, done.stderr
    assert "robust 0." in done.stdout


@pytest.mark.slow
def test_huggingface_trainer() -> None:
    pytest.importorskip("transformers")
    done = run("examples/huggingface_trainer.py", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r"loss (\S+) -> (\S+)", done.stdout)[0])
    assert after < before - 0.1
    assert "120 steps" in done.stdout


@pytest.mark.slow
def test_rlhf_language_model() -> None:
    pytest.importorskip("trl")
    done = run("examples/rlhf_language_model.py")
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r"utility (\S+) -> (\S+)", done.stdout)[0])
    assert after > before + 1


@pytest.mark.slow
def test_ppo_steers_fit() -> None:
    for package in ("sklearn", "sb3_contrib"):
        pytest.importorskip(package)
    done = run("examples/ppo_steers_fit.py", "--learn", "3000", "--epochs", "6")
    assert done.returncode == 0, done.stderr
    losses = dict(re.findall(r"(\S+): validation loss (\S+),", done.stdout))
    assert list(losses) == ["constant", "default", "dqn", "MaskablePPO"]
    assert float(losses["MaskablePPO"]) < float(losses["constant"])
