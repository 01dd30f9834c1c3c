"""Install the wheel with each extra into an empty environment and print its size: `make sizes`.

Each environment is a new one without pip, in a temporary folder; versions are those of
`constraints.txt`. The table goes into `docs/install.md`, row by row, in place of what was there.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "install.md"
CORE = "(none)"

# What each extra is for: imported in the environment that was made.
SMOKE = {
    CORE: "import optuna; from rlhf_tune import DQNSampler; DQNSampler(policy='dqn', seed=0)",
    "cleverhans": "from rlhf_tune.engine import engine; assert engine() != 'rlhf_tune'",
    "demo": "import rlhf_tune.demo.keras_cnn",
    "fairness": "import fairlearn, sklearn",
    "feedback": "import optuna_dashboard",
    "gate": "import rlhf_tune.gate, matplotlib",
    "keras": "from rlhf_tune.keras import fit",
    "lightning": "import lightning.pytorch",
    "mlflow": "import mlflow",
    "plot": "import rlhf_tune.plot, matplotlib.figure",
    "ray": "import ray.tune",
    "rl": "import rlhf_tune.envs, rlhf_tune.agents.dqn, stable_baselines3, sb3_contrib",
    "sklearn": "import sklearn",
    "skorch": "import skorch",
    "torch": "from rlhf_tune.pytorch import fit",
    "transformers": "import transformers",
}


def main() -> None:
    """Measure the extras that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", help=f"default: all; the core is {CORE}")
    asked = parser.parse_args().extras or list(SMOKE)
    unknown = [extra for extra in asked if extra not in SMOKE]
    if unknown:
        parser.error(f"extras must be some of {sorted(SMOKE)}, but got {unknown}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        for extra in asked:
            size, packages = measure(wheel, extra, Path(folder) / "env")
            print(f"{extra}: {size:.0f} MB in {packages} packages", flush=True)
            PAGE.write_text(with_row(PAGE.read_text(), extra, size, packages))


def build(folder: Path) -> Path:
    """The wheel of this tree."""
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def measure(wheel: Path, extra: str, folder: Path) -> tuple[float, int]:
    """Megabytes and packages of an environment with the wheel and one extra, which must work."""
    venv.create(folder, clear=True, with_pip=False)
    python = str(folder / "bin" / "python")
    what = str(wheel) if extra == CORE else f"{wheel}[{extra}]"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, *constraints, what], check=True, env=clean)
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    # Before anything is imported: what Python compiles afterwards pip has compiled already.
    size = sum(path.lstat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    subprocess.run([python, "-I", "-c", SMOKE[extra]], check=True, cwd=folder)
    return size, len(list(site.glob("*.dist-info")))


def with_row(page: str, extra: str, size: float, packages: int) -> str:
    """The page with the sizes of one extra in its row of the table."""
    row = re.compile(rf"^(\| `?{re.escape(extra)}`? \|.*?\|).*$", re.MULTILINE)
    if not row.search(page):
        raise SystemExit(f"{PAGE} must have a row for the extra {extra!r}")
    return row.sub(rf"\1 {size:,.0f} | {packages} |", page)


if __name__ == "__main__":
    main()
