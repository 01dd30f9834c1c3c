"""The built wheel, and that the project's papers agree with each other."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rlhf_tune

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {
        "rlhf_tune",
        "rlhf_tune_integrations",
    }
    assert "rlhf_tune/py.typed" in names
    assert "rlhf_tune_integrations/py.typed" in names
    assert "rlhf_tune/gate/report.schema.json" in names
    assert "rlhf_tune/demo/recorded.json" in names


def test_the_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import optuna, rlhf_tune, rlhf_tune_integrations\n"
        "from importlib.metadata import entry_points\n"
        "optuna.logging.set_verbosity(optuna.logging.ERROR)\n"
        "study = optuna.create_study(sampler=rlhf_tune.DQNSampler(seed=0))\n"
        "study.optimize(lambda t: t.suggest_float('lr', 1e-5, 1, log=True), n_trials=3)\n"
        "print(rlhf_tune.__file__)\n"
        "print(rlhf_tune_integrations.__file__)\n"
        "print(sorted(e.name for e in entry_points(group='rlhf_tune.frameworks')))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(site)],
        cwd=empty,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    assert out[0].startswith(str(site))
    assert out[1].startswith(str(site))
    assert out[2] == "['keras', 'torch']"


def test_versions_agree(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = next(n for n in archive.namelist() if n.endswith("METADATA"))
    version = email.message_from_bytes(archive.read(metadata))["Version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert version == rlhf_tune.__version__
    assert released[0] == version


def test_constraints_lie_within_the_ranges_for_users() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    assert pins["torch"] == "2.13.0"
    text = (ROOT / "pyproject.toml").read_text()
    for name in ("torch", "optuna", "keras", "tensorflow", "cleverhans"):
        floor = re.search(rf'"{name}>=([\d.]+)"', text)
        assert floor, name
        assert tuple(map(int, pins[name].split("."))) >= tuple(map(int, floor[1].split(".")))
