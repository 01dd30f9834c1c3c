"""What is killed: commands in folders of their own, and what must hold after a kill and at the end.

    python -m tests.faults.victims NAME FOLDER

A victim begins, or goes on, in its folder. It says BEGUN once it is at work and prints the digest
of its result at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import optuna

BEGUN = "begun"
TRIALS = 25
URL = "RLHF_TUNE_TEST_STORAGE"  # of a server, for the victim that needs one


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Attributes:
        run: Begins or goes on in a folder; returns the digest of its result, or None.
        check: What is wrong with a folder, a sentence each; after a kill, and at the end.
        equal: Whether a result after kills equals that of an uninterrupted run.
    """

    run: Callable[[Path], str | None]
    check: Callable[[Path], list[str]]
    equal: bool = True


def digest(*parts: Any) -> str:
    """Of arrays, bytes and texts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else
                     part if isinstance(part, bytes) else repr(part).encode())  # fmt: skip
    return found.hexdigest()


def begun() -> None:
    print(BEGUN, flush=True)


# Studies: a log of its own says what was finished.


def _storage(kind: str, folder: Path) -> Any:
    if kind == "journal":
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return os.environ[URL] if kind == "postgresql" else f"sqlite:///{folder / 'study.db'}"


def _study(kind: str, folder: Path) -> optuna.Study:
    from rlhf_tune import DQNSampler

    return optuna.create_study(
        storage=_storage(kind, folder),
        study_name=folder.name,
        sampler=DQNSampler(seed=0),
        load_if_exists=True,
    )


def _run_study(kind: str, folder: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        size = trial.suggest_int("batch_size", 16, 256, log=True)
        return (math.log10(rate) + 2.2) ** 2 + 0.1 * (math.log2(size) - 6) ** 2

    def note(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        with (folder / "finished").open("a") as log:
            log.write(json.dumps([trial.number, trial.value, trial.params]) + "\n")
            log.flush()
            os.fsync(log.fileno())

    study = _study(kind, folder)
    begun()
    done = sum(t.state.is_finished() for t in study.get_trials())
    study.optimize(objective, TRIALS - done, callbacks=[note])


def _check_study(kind: str, folder: Path) -> list[str]:
    log = folder / "finished"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    noted = [json.loads(line) for line in lines if line.endswith("\n")]
    there = {t.number: t for t in _study(kind, folder).get_trials()}
    lost = [n for n, value, params in noted
            if n not in there or (there[n].value, there[n].params) != (value, params)]  # fmt: skip
    problems = [f"finished trials {lost} are lost"] if lost else []
    if len({number for number, *_ in noted}) < len(noted):
        problems.append("a finished trial was run again")
    return problems


def study(kind: str) -> Victim:
    """On a storage; what equals an uninterrupted study is for docs/resuming.md to say."""
    return Victim(
        lambda folder: _run_study(kind, folder),
        lambda folder: _check_study(kind, folder),
        equal=False,
    )


# Training runs, with checkpoints


def _run_fit(framework: str, folder: Path) -> str:
    from benchmarks import kills

    with contextlib.redirect_stdout(sys.stdout):
        return kills.run(framework, folder)


def _reach(folder: Path) -> str:
    """A fit of PyTorch that trains against its bound."""
    import torch

    from rlhf_tune.safety import RobustAccuracy
    from rlhf_tune_integrations.pytorch import fit

    rng = np.random.default_rng(0)
    x = rng.random((600, 6)).astype(np.float32)
    y = (x[:, 0] > 0.5).astype(np.int64)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer, loss = torch.optim.Adam(model.parameters()), torch.nn.functional.cross_entropy
    bound = RobustAccuracy(x[400:], y[400:], eps=0.02, at_least=0.4)
    begun()
    history = fit(
        model,
        optimizer,
        loss,
        (x[:300], y[:300]),
        (x[300:400], y[300:400]),
        epochs=6,
        constraints=[bound],
        reach=True,
        checkpoint=folder,
        verbose=0,
        seed=0,
    )
    tensors = [tensor.numpy() for tensor in model.state_dict().values()]
    return digest(*tensors, history.history, history.epoch)


def _check_fit(folder: Path) -> list[str]:
    """What was written is there."""
    from benchmarks import kills

    tally = kills.Tally()
    tally.check(folder)
    return ["a state that was written is lost"] if tally.lost else []


# Files of commands


def _words(*words: Any) -> int:
    from rlhf_tune import cli

    begun()
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cli.main([str(word) for word in words])


def _few_tables(folder: Path) -> Path:
    """A folder of two families of recorded tasks; written whole before the work begins."""
    tables = folder / "tables"
    if not tables.exists():
        source, making = Path("benchmarks/tables"), folder / "making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        families = ["iris", "wine"]
        (making / "split.json").write_text(json.dumps({"train": families}))
        shutil.copy(source / "manifest.json", making)
        for family in families:
            shutil.copy(source / f"{family}.npz", making)
        making.rename(tables)
    return tables


def _run_pretrain(folder: Path) -> str:
    out = folder / "policy.safetensors"
    assert _words("pretrain", "--tables", _few_tables(folder), "-o", out) == 0
    return digest(out.read_bytes())


def _check_pretrain(folder: Path) -> list[str]:
    from rlhf_tune.study.prior import load

    out = folder / "policy.safetensors"
    if out.exists():
        load(out)  # raises where it is not whole
    return []


def _run_record(folder: Path) -> str:
    from benchmarks import record

    names = ["iris-linear-sgd*", "iris-linear-adam*"]
    with contextlib.redirect_stdout(None):
        small = record.Grid(batch_sizes=(16, 64), seeds=(0,), epochs=2, fgsm_epochs=(2,))
        chosen = [job for job in record.jobs(record.SOURCES) if any(
            record.fnmatch.fnmatch(job.name, name) for name in names)]  # fmt: skip
    begun()
    with contextlib.redirect_stdout(None):
        record.record(chosen, folder / "tables", small)
    tasks = json.loads((folder / "tables" / "manifest.json").read_text())["tasks"]
    return digest(sorted((name, task["sha256"]) for name, task in tasks.items()))


def _check_record(folder: Path) -> list[str]:
    from rlhf_tune.pretraining.tables import read_family

    tables = folder / "tables"
    for path in tables.glob("*.npz"):
        read_family(path)
    manifest = tables / "manifest.json"
    if manifest.exists():
        known = json.loads(manifest.read_text())["tasks"]
        there = read_family(tables / "iris.npz")
        return [f"{name} is listed and not there" for name in known if name not in there]
    return []


OUTPUTS = {"--report": "r.json", "--junit": "r.xml", "--markdown": "r.md"}


def linear() -> Any:
    """A factory of the gate."""
    from torch import nn

    return nn.Linear(4, 2)


def _gate_inputs(folder: Path) -> None:
    from safetensors.numpy import save

    from rlhf_tune import files

    x = np.random.default_rng(0).random((400, 4)).astype(np.float32)
    y = (np.arange(400) % 2).astype(np.int64)
    x[:, 0] = np.where(y == 1, 0.9, 0.1)
    w = np.array([[-2, 0, 0, 0], [2, 0, 0, 0]], np.float32)
    bias = np.array([1, -1], np.float32)
    files.write(folder / "model.safetensors", save({"weight": w, "bias": bias}))
    with files.whole(folder / "data.npz") as partial:
        np.savez(partial, x=x, y=y)


def _run_gate(folder: Path) -> str:
    _gate_inputs(folder)
    named = [word for option, name in OUTPUTS.items() for word in (option, folder / name)]
    asked = ["--eps", "0.1", "--min-robust-accuracy", "0.8", "--quiet"]
    given = ["--data", folder / "data.npz", "--factory", "tests.faults.victims:linear"]
    assert _words("gate", folder / "model.safetensors", *given, *asked, *named) == 0
    assert all((folder / name).exists() for name in OUTPUTS.values())
    document = json.loads((folder / "r.json").read_text())
    return digest(document["verdict"], document["requirements"], document["curve"])


def _check_gate(folder: Path) -> list[str]:
    from rlhf_tune.gate.verify import verify

    problems = []
    report, junit, markdown = (folder / name for name in OUTPUTS.values())
    if report.exists() and verify(folder / "model.safetensors", report).exit_code:
        problems.append("a report is not whole")
    if junit.exists():
        ElementTree.parse(junit)
    if markdown.exists() and not markdown.read_text().rstrip().endswith("."):
        problems.append("the Markdown is cut short")
    if (junit.exists() or markdown.exists()) and not report.exists():
        problems.append("a verdict stands without its report")
    return problems


def _run_demo(folder: Path) -> str:
    words = "--framework torch --trials 5 --epochs 1 --max-train 200 --min-robust-accuracy 0"
    assert _words("demo", *words.split(), "--runs-dir", folder) == 0
    return digest((folder / "demo" / "summary.json").read_text())


def _check_demo(folder: Path) -> list[str]:
    from safetensors.numpy import load_file

    demo, problems = folder / "demo", []
    if (demo / "summary.json").exists():
        json.loads((demo / "summary.json").read_text())
        names = ("summary.md", "trials.png", "model.safetensors")
        problems = [f"{n} is not there" for n in names if not (demo / n).exists()]
    if (demo / "model.safetensors").exists():
        load_file(demo / "model.safetensors")
    if (demo / "trials.png").exists() and b"IEND" not in (demo / "trials.png").read_bytes()[-16:]:
        problems.append("the picture is cut short")
    return problems


VICTIMS = {
    "study on SQLite": study("sqlite"),
    "study on a journal": study("journal"),
    "study on PostgreSQL": study("postgresql"),
    "fit of Keras": Victim(lambda folder: _run_fit("keras", folder), _check_fit),
    "fit of PyTorch": Victim(lambda folder: _run_fit("torch", folder), _check_fit),
    "fit of PyTorch, reach=True": Victim(_reach, _check_fit),
    "pretrain": Victim(_run_pretrain, _check_pretrain),
    "record": Victim(_run_record, _check_record),
    "reports of the gate": Victim(_run_gate, _check_gate),
    "demo": Victim(_run_demo, _check_demo),
}


def main(name: str, folder: str) -> None:
    """Run a victim in this process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = VICTIMS[name].run(Path(folder))
    print(json.dumps({"digest": found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
