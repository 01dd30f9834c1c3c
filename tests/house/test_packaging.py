"""What is built and how it is released, and that the project's papers agree with each other."""

import email
import email.message
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import rlhf_tune

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and with the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


NEEDED = {
    *("rlhf_tune/py.typed", "rlhf_tune_integrations/py.typed", "rlhf_tune/gate/report.schema.json"),
    "rlhf_tune/demo/recorded.json",
    *(f"rlhf_tune/pretrained/{path.name}" for path in (ROOT / "rlhf_tune/pretrained").iterdir()),
}


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"rlhf_tune-{rlhf_tune.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {
        "rlhf_tune",
        "rlhf_tune_integrations",
    }
    assert len(NEEDED) >= 8
    assert set(names) >= NEEDED
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 1.5e6


def test_the_source_archive_holds_what_builds_the_wheel_and_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()} - {""}
    places = {name.split("/")[0] for name in names}
    assert places == {
        *("rlhf_tune", "integrations", "rlhf_tune.egg-info"),
        *("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "PKG-INFO"),
        *("pyproject.toml", "setup.cfg"),
    }
    assert names >= {name.replace("rlhf_tune_i", "integrations/rlhf_tune_i") for name in NEEDED}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".db"))]


def test_the_metadata_is_what_an_index_asks_for(wheel: Path, project: dict[str, Any]) -> None:
    """What `twine check --strict` looks at, and that every extra is declared."""
    found = metadata_of(wheel)
    assert found["Name"] == "rlhf-tune"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found["License-Expression"] == "MIT"
    assert found["Requires-Python"] == project["requires-python"]
    assert len(found["Summary"]) < 512
    assert "\n" not in found["Summary"]
    text = found.get_payload()
    assert isinstance(text, str)
    assert text.strip().startswith("# ")
    assert set(found.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    plain = [line for line in found.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(plain) == sorted(project["dependencies"])
    assert "Private ::" not in str(found.get_all("Classifier"))


def test_the_recipe_for_conda_asks_for_what_the_core_does(project: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())
    python, *run = recipe["requirements"]["run"]
    assert sorted(line.replace(" ", "") for line in run) == sorted(project["dependencies"])
    context = recipe["context"]
    assert (context["name"], context["version"]) == (project["name"], rlhf_tune.__version__)
    assert python == "python >=${{ python_min }}"
    assert f">={context['python_min']}" == project["requires-python"]
    (command,) = recipe["build"]["python"]["entry_points"]
    assert command == "rlhf-tune = " + project["scripts"]["rlhf-tune"]
    assert recipe["about"]["license"] == project["license"]


def workflows() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return {
        path.stem: yaml.safe_load(path.read_text())
        for path in (ROOT / ".github/workflows").glob("*.yml")
    }


def test_workflows_use_fixed_actions_and_no_more_rights_than_they_need() -> None:
    found = workflows()
    assert {"ci", "release"} <= found.keys()
    for name, workflow in found.items():
        assert workflow["permissions"] == {"contents": "read"}, name
        for job, steps in workflow["jobs"].items():
            if (name, job) != ("release", "publish"):
                assert "permissions" not in steps, (name, job)
            for step in steps["steps"]:
                assert re.fullmatch(
                    r"[\w-]+/[\w/-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40)
                )


def test_a_release_publishes_what_was_tested_and_by_trust_alone() -> None:
    release = workflows()["release"]
    jobs = release["jobs"]
    assert jobs["test"]["needs"] == "build"
    publish = jobs["publish"]
    assert publish["needs"] == "test"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]["name"] == "pypi"
    download, upload = publish["steps"]
    assert download["with"]["name"] == "dist"
    assert upload["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in upload, "no password, no token"
    assert release[True]["push"] == {"tags": ["v*"]}, "YAML 1.1 reads the key `on` as true"


def test_the_core_is_tested_on_every_python_that_is_promised(project: dict[str, Any]) -> None:
    named = {
        line.rpartition(" ")[2]
        for line in project["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    }
    assert set(workflows()["ci"]["jobs"]["core"]["strategy"]["matrix"]["python"]) == named
    assert min(named, key=lambda text: int(text[2:])) == project["requires-python"][2:]


def test_the_table_of_sizes_has_a_row_for_each_extra(project: dict[str, Any]) -> None:
    page = (ROOT / "docs/install.md").read_text()
    rows = dict(re.findall(r"^\| `?([\w()]+)`? \|.*\| ?~?([\d,]*) \| ?\d* \|$", page, re.MULTILINE))
    others = {"all", "benchmarks", "dev", "docs", "robustness", "sb3"}
    assert rows.keys() - {"(none)"} == set(project["optional-dependencies"]) - others
    assert 50 < int(rows["(none)"]) <= 300, "megabytes of the core"


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


def metadata_of(wheel: Path) -> email.message.Message:
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith("METADATA"))
    return email.message_from_bytes(archive.read(name))


def test_versions_agree(wheel: Path) -> None:
    version = metadata_of(wheel)["Version"]
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
