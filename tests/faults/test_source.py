"""What the source must not contain: code from data, shells, networks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlhf_tune

ROOT = Path(rlhf_tune.__file__).parent.parent
FILES = sorted(
    path for folder in ("rlhf_tune", "integrations") for path in (ROOT / folder).rglob("*.py")
)
MODULES = {
    "cPickle", "cloudpickle", "code", "dill", "joblib", "marshal", "requests", "runpy",
    "shelve", "socket", "ssl", "urllib", "http", "yaml",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "tempfile.mktemp", "unsafe_deserialization", "enable_unsafe_deserialization",
}  # fmt: skip


def dangers(tree: ast.AST) -> Iterator[str]:
    """What a module does that ours must not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            yield node.module
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            yield from [node.attr] * (node.attr != "UnpicklingError")  # what readers raise
        if isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
    if name in CALLS or name.split(".")[-1] in ("enable_unsafe_deserialization",):
        yield name
    if given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
        yield f"{name}(shell or allow_pickle)"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        yield f"{name} without allow_pickle=False"
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name.endswith("load_model") and given.get("safe_mode") != "True":
        yield f"{name} without safe_mode=True"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_becomes_code(path: Path) -> None:
    assert not list(dangers(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle; pickle.loads(x)",
        "from pickle import loads",
        "from joblib import load",
        "import urllib.request",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "keras.models.load_model(x)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_a_danger_would_be_found(line: str) -> None:
    assert list(dangers(ast.parse(line)))
