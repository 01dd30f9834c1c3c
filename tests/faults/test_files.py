"""Files are written whole or not at all, by one function, and nothing of others is replaced."""

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest

import rlhf_tune
from rlhf_tune import cli, files
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.judgements import Judgement, JudgementLog, export, load
from rlhf_tune.tensors import SHIPPED, read_tensors, write_tensors

ROOT = Path(rlhf_tune.__file__).parent.parent
CODE = ["rlhf_tune", "integrations", "benchmarks"]


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for content in ("a", "bc"):
        files.write(tmp_path / "file.txt", content)
        assert (tmp_path / "file.txt").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_disk_that_fails_leaves_what_was_there(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    files.write(path, "before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "after")
    with pytest.raises(OSError, match="No space left"), files.whole(path) as partial:
        partial.write_text("after")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "before"


def test_an_error_within_the_block_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write(path, "before")
    with pytest.raises(ZeroDivisionError), files.whole(path) as partial:
        partial.write_text(f"half {1 / 0}")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file.txt", "before")]


def test_a_limit_on_file_sizes_leaves_what_was_there(tmp_path: Path) -> None:
    """As a full disk would: the write itself fails, in the middle."""
    path = tmp_path / "file.txt"
    files.write(path, "before")
    code = (
        "import resource, signal, sys; from rlhf_tune import files; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "files.write(sys.argv[1], 'x' * 5000)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert "File too large" in run.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file.txt", "before")]


def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".file.{os.getpid()}.partial.txt").symlink_to(victim)
    files.write(tmp_path / "file.txt", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "file.txt").read_text() == "new"


def test_what_killed_processes_left_can_be_cleared(tmp_path: Path) -> None:
    for name in (".a.1.partial.txt", ".a.22.partial.txt", ".b.1.partial.txt", "a.txt"):
        (tmp_path / name).write_text("")
    files.clear(tmp_path / "a.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.1.partial.txt", "a.txt"]


# A call of one of these names writes a file.
WRITERS = {
    "save_file",
    "savefig",
    "savez",
    "savez_compressed",
    "to_csv",
    "write_bytes",
    "write_html",
    "write_image",
    "write_text",
}
ALLOWED = {
    "rlhf_tune/files.py": "the function",
    "rlhf_tune/feedback/judgements.py: open": "a log, that is appended to and brought to the disk",
    "rlhf_tune/gate/picture.py: savefig": "into memory",
    "rlhf_tune/quiet.py: open": "/dev/null",
    "integrations/rlhf_tune_integrations/keras/files.py: write_bytes": "in a temporary folder",
    "benchmarks/kills.py: open": "a log of a process that is to be killed",
    "benchmarks/runs/kept.py: open": "a log of lines, of which a torn one is left out",
}


def writes(path: Path) -> Iterator[str]:
    """The calls that write outside of a `with files.whole(...)`."""
    nodes: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), False)]
    while nodes:
        node, inside = nodes.pop()
        if isinstance(node, ast.With):
            inside = inside or any("whole(" in ast.unparse(item) for item in node.items)
        nodes += [(child, inside) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Call) and not inside:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            texts = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if
                     isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
            opened = name == "open" and any(set(t) & set("wax+") and len(t) < 5 for t in texts)
            saved = ast.unparse(node.func) in ("np.save", "torch.save", "model.save", "json.dump")
            if name in WRITERS or opened or saved:
                yield name


def found(folders: list[str]) -> set[str]:
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    names = {str(p.relative_to(ROOT)): set(writes(p)) for p in paths}
    return {f"{path}: {name}" for path, called in names.items() for name in called}


def test_every_file_is_written_by_the_one_function() -> None:
    others = {each for each in found(CODE) if each.split(":")[0] not in ALLOWED}
    assert others <= ALLOWED.keys()


def test_a_writer_beside_it_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "p.open('w')\nopen(p, mode='ab')\np.write_text('')\nnp.save(p, a)\np.open()\n"
        "with files.whole(p) as q:\n    q.write_text('')\n    model.save(q)\n"
    )
    assert sorted(writes(path)) == ["open", "open", "save", "write_text"]


def test_equal_tensors_are_equal_bytes_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; "
        "from rlhf_tune.tensors import write_tensors as w; "
        "w({'b': np.ones((2, 3)), 'a': np.arange(5, dtype=np.float16)}, Path(sys.argv[1]), "
        "{k: k * 2 for k in 'zyxabcdefgh'})"
    )
    made = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in made:
        subprocess.run([sys.executable, "-c", code, path], check=True)
    assert len({path.read_bytes() for path in made}) == 1
    tensors = read_tensors(made[0])
    np.testing.assert_array_equal(tensors["a"], np.arange(5))
    np.testing.assert_array_equal(tensors["b"], np.ones((2, 3)))


def test_the_gate_touches_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {"package.json": '{"mine": 1}', "README.md": "# my readme", "README.png": "picture"}
    for name, text in mine.items():
        Path(name).write_text(text)
    asked = ["--data", "missing.npz", "--eps", "0.1", "--min-robust-accuracy", "0.7"]
    outputs = ["--report", "package.json", "--markdown", "README.md"]
    assert cli.main(["gate", "none.keras", *asked, *outputs]) == 2
    assert "holds no report of the gate" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == mine


@pytest.mark.parametrize("content", ["# mine\n", "{}"])
def test_pretrain_replaces_policies_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "README.md"
    out.write_text(content)
    assert cli.main(["pretrain", "--storage", "sqlite:///none.db", "-o", str(out)]) == 2
    assert "replaces only a file that this command wrote" in capsys.readouterr().err
    assert out.read_text() == content


def test_pretrain_replaces_no_weights_of_a_model(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    write_tensors({"layer.weight": np.ones(3)}, out, {})
    before = out.read_bytes()
    assert cli.main(["pretrain", "--storage", "sqlite:///none.db", "-o", str(out)]) == 2
    assert out.read_bytes() == before


def test_pretrain_may_replace_a_policy(tmp_path: Path) -> None:
    storage, out = f"sqlite:///{tmp_path}/studies.db", tmp_path / "policy.safetensors"
    out.write_bytes(SHIPPED.read_bytes())
    study = optuna.create_study(storage=storage)
    study.optimize(lambda t: t.suggest_float("learning_rate", 1e-5, 1e-1, log=True), 8)
    assert cli.main(["pretrain", "--storage", storage, "-o", str(out)]) == 0
    assert out.read_bytes() != SHIPPED.read_bytes()


def test_judgements_replace_judgements_alone(tmp_path: Path) -> None:
    table = tmp_path / "sales.csv"
    table.write_text("month,sold\n1,2\n")
    with pytest.raises(InvalidInputError, match="holds something else"):
        export([Judgement.preferring(1, 2)], table)
    assert table.read_text() == "month,sold\n1,2\n"
    for _ in range(2):
        export([Judgement.preferring(1, 2)], tmp_path / "own.csv")
    assert len(load(tmp_path / "own.csv")) == 1


def test_a_torn_line_of_a_log_is_passed_over_and_the_next_one_kept(tmp_path: Path) -> None:
    log = JudgementLog(tmp_path / "log.jsonl")
    log.append(Judgement.preferring(1, 2))
    with log.path.open("a") as file:
        file.write(json.dumps({"kind": "comparison"})[:9])
    log.append(Judgement.preferring(3, 4))
    assert [j.items for j in log.records()] == [(1, 2), (3, 4)]
