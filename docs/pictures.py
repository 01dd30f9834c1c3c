"""Draw the two pictures of README: `python docs/pictures.py`.

`regret.svg` shows the table of `docs/benchmarks/sampler.md`; `rollback.svg` a training run on
scikit-learn's digits, which is trained here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from rlhf_tune.run import Epoch
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune_integrations.pytorch import fit

DOCS = Path(__file__).parent
FOLDER = DOCS / "pictures"
TRIALS = (5, 10, 20, 40)
METHODS = {
    "random": ("random search", "0.6", "v"),
    "tpe": ("TPE", "tab:blue", "s"),
    "gp": ("GPSampler", "tab:orange", "D"),
    "default": ("rlhf_tune", "crimson", "o"),
}
FLOOR = 0.38


def main() -> None:
    """Draw both."""
    FOLDER.mkdir(exist_ok=True)
    _save(_regret(), "regret.svg")
    _save(_rollback(), "rollback.svg")


def _regret() -> Figure:
    """Regret after some trials, with a standard error over tasks, of four methods."""
    page = (DOCS / "benchmarks" / "sampler.md").read_text("utf-8")
    block = page[page.index("<!-- begin sampler-test -->") :]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
    first = {row[0]: row[2:] for row in reversed(rows) if len(row) == len(TRIALS) + 2}
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for method, (label, color, marker) in METHODS.items():
        means, errors = zip(
            *(map(float, cell.split()[::2][:2]) for cell in first[method]), strict=True
        )
        axes.errorbar(TRIALS, means, errors, label=label, color=color, marker=marker, capsize=3)
    axes.set(xscale="log", yscale="log", xlabel="trials", ylabel="regret (0: the best setting)")
    axes.set_title("Learning rate and batch size, 141 test tasks", fontsize="medium")
    axes.set_xticks(TRIALS, labels=[str(n) for n in TRIALS])
    axes.set_yticks((0.02, 0.05, 0.1), labels=("0.02", "0.05", "0.1"))
    axes.minorticks_off()
    axes.grid(color="0.92")
    axes.legend(fontsize="small")
    return figure


def _rollback() -> Figure:
    """Robust accuracy and learning rate of a run whose floor is violated once."""
    told, history = _run()
    epochs = np.arange(1, len(told) + 1)
    values = [epoch.measurements["robust_accuracy"] for epoch in told]
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes, rates = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    axes.plot(epochs, [m.interval[0] for m in values], "o-", color="tab:green", label="committed")
    before = [i for i, times in enumerate(history.history["rolled_back"]) if times]
    lows = [stretch.measurements["robust_accuracy"].interval[0] for stretch in history.discarded]
    axes.scatter(
        epochs[before], lows, color="crimson", marker="x", s=70, label="rolled back", zorder=3
    )
    for i, low in zip(before, lows, strict=True):
        axes.plot(epochs[i - 1 : i + 1], [values[i - 1].interval[0], low], ":", color="crimson")
    axes.axhline(FLOOR, color="black", linestyle="--", linewidth=1, label=f"floor {FLOOR:g}")
    axes.set(ylabel="robust accuracy,\nlower 95 % bound", ylim=(0.2, None))
    axes.set_title("One training run on digits, with a floor (eps 0.1)", fontsize="medium")
    axes.legend(fontsize="small", loc="lower right")
    rates.step(epochs, history.history["learning_rate"], where="mid", color="tab:blue")
    rates.set(yscale="log", ylabel="rate", xlabel="epoch")
    for panel in (axes, rates):
        panel.grid(color="0.92")
    return figure


def _run() -> tuple[list[Epoch], Any]:
    """What the run told of each epoch, and its history."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x / 16).astype("float32")[order], y[order]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    floor = RobustAccuracy(x[800:], y[800:], eps=0.1, at_least=FLOOR, name="robust_accuracy")
    told: list[Epoch] = []
    history = fit(
        model,
        torch.optim.Adam(model.parameters()),
        torch.nn.functional.cross_entropy,
        (x[:800], y[:800]),
        (x[800:], y[800:]),
        epochs=16,
        metrics=["accuracy"],
        constraints=[floor],
        on_epoch=told.append,
        seed=0,
    )
    return told, history


def _save(figure: Figure, name: str) -> None:
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(FOLDER / name, metadata={"Date": None})


if __name__ == "__main__":
    main()
