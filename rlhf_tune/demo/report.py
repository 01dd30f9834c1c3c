"""What came out of a run: one summary, and its forms for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_tune.demo.data import Data
from rlhf_tune.demo.replay import replay
from rlhf_tune.demo.settings import Settings
from rlhf_tune.engine import OWN, engine
from rlhf_tune.printable import markdown as escaped
from rlhf_tune.safety import Measurement
from rlhf_tune.study.recommendation import Recommendation
from rlhf_tune.study.sampler import DQNSampler

FILES = ("summary.json", "summary.md")

Row = Mapping[str, Any]

_VERDICTS = {
    "satisfied": "The recommended setting keeps the floor on the held-out images.",
    "missed": "The recommended setting MISSES the floor on the held-out images.",
    "untrusted": "The held-out measurement cannot be trusted.",
    "cannot certify": "No setting can be recommended: none keeps the floor.",
}
_ADVICE = (
    "Lower --min-robust-accuracy or --eps, raise --epochs or --trials, and start anew by --fresh."
)


def summarize(settings: Settings, data: Data, study: Study, sampler: DQNSampler) -> dict[str, Any]:
    """Everything known after the trials, as JSON takes it: no NaN or infinity, no clock."""
    attacks = [] if engine() == OWN else ["cleverhans"]
    packages = ("rlhf-tune", "optuna", *attacks, settings.framework)
    moves = sampler.explain(study)
    return {
        "name": settings.name,
        "settings": settings.fixed | {"trials": settings.trials},
        "data": {
            "shape": list(data.shape),
            "classes": data.classes,
            "train": len(data.y_train),
            "validation": len(data.y_validation),
            "test": len(data.y_test),
        },
        "trials": [trial_row(t) for t in study.get_trials(deepcopy=False) if t.params],
        "predicted_unsafe": [
            c.params | {"p_safe": round(c.p_safe, 4)} for c in moves if c.why == "predicted unsafe"
        ],
        "no_gain_expected": sum(c.why == "not worth its risk" for c in moves),
        "replayed": replay(settings),
        "versions": {name: version(name) for name in packages},
        "verdict": None,
        "reason": None,
        "recommended": None,
        "chosen": None,
        "model": None,
        "test": None,
    }


def trial_row(trial: FrozenTrial) -> Row:
    """One trial; its state is "feasible", "unsafe" or "failed"."""
    cost = trial.constraints.get("robust_accuracy", math.inf)
    complete = trial.state == TrialState.COMPLETE
    return {
        "number": trial.number,
        **trial.params,
        "state": ("feasible" if cost <= 0 else "unsafe") if complete else "failed",
        "loss": trial.value if complete else None,
        "clean_accuracy": trial.user_attrs.get("clean_accuracy"),
        "robust_accuracy": trial.user_attrs.get("robust_accuracy"),
        "constraint": cost if math.isfinite(cost) else None,
    }


def best(trials: Iterable[FrozenTrial]) -> Row | None:
    """The feasible trial with the lowest loss."""
    rows = [row for row in map(trial_row, trials) if row["state"] == "feasible"]
    return min(rows, key=lambda row: row["loss"], default=None)


def outcome(
    chosen: Recommendation, model: str, loss: float, under: Mapping[str, Measurement]
) -> dict[str, Any]:
    """The part of the summary that the held-out images decide.

    FGSM, which the trials were tuned on, decides about the floor; all attacks together decide
    whether the evidence can be trusted.
    """
    fgsm = under["FGSM"]
    reasons = [reason for measurement in under.values() for reason in measurement.reasons]
    verdict = "satisfied" if fgsm.satisfied else "missed"
    return {
        "verdict": "untrusted" if reasons else verdict,
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        "recommended": dict(chosen.params),
        "chosen": {"number": chosen.number, "why": chosen.table().notes[0]},
        "model": model,
        "test": {
            "loss": loss if math.isfinite(loss) else None,
            "clean_accuracy": fgsm.details["clean_accuracy"],
            "under": {
                name: {
                    "accuracy": m.value,
                    "low": m.interval[0],
                    "high": m.interval[1],
                    "n": m.n,
                    "floor": m.bound,
                    "satisfied": m.satisfied,
                }
                for name, m in under.items()
            },
        },
    }


def named(params: Mapping[str, Any]) -> str:
    """The tuned parameters of anything that has them, in columns."""
    return f"learning rate {params['learning_rate']:<8.3g}  batch size {params['batch_size']:>3}"


def sentence(row: Row) -> str:
    """One trial in a line."""
    return f"{named(row)}  {_figures(row)}  {row['state']}"


def conclusion(summary: Mapping[str, Any]) -> list[str]:
    """The verdict, why, and what to do."""
    lines = [_VERDICTS[summary["verdict"]]]
    if summary["reason"]:
        lines.append(f"Why: {summary['reason']}.")
    if summary["verdict"] != "satisfied":
        lines.append(_ADVICE)
    return lines


def gained(summary: Mapping[str, Any]) -> list[str]:
    """What tuning gained over the first trial, why its choice was made, and what it risked."""
    rows, replayed = summary["trials"], summary["replayed"]
    lines = []
    if chosen := summary["chosen"]:
        best = next(row for row in rows if row["number"] == chosen["number"])
        lines += [
            f"Gained: from {_worth(rows[0])} in trial {rows[0]['number']}, the usual setting, to "
            f"{_worth(best)} in trial {best['number']}.",
            f"Why trial {best['number']}: {chosen['why']}.",
        ]
    below = sum(row["state"] == "unsafe" for row in rows)
    risked = f"Below the floor: {below} of {len(rows)} trials"
    if replayed:
        others = " and ".join(f"{way} {n[-1]:g}" for way, n in replayed["below"].items())
        risked += f" here; replayed on a recorded table of this task, {others}"
    return [*lines, f"{risked}."]


def _worth(row: Row) -> str:
    """Loss and robustness of a trial, in words."""
    if row["loss"] is None:
        return "a training that diverged"
    kept = "keeps" if row["state"] == "feasible" else "misses"
    return (
        f"loss {row['loss']:.3f} and FGSM accuracy {row['robust_accuracy']:.3f} ({kept} the floor)"
    )


def measured(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The held-out figures: what, value, verdict."""
    test = summary["test"]
    if test is None:
        return []
    chosen = summary["recommended"]
    rows = [
        ("learning rate", f"{chosen['learning_rate']:.3g}", ""),
        ("batch size", str(chosen["batch_size"]), ""),
        ("clean accuracy", f"{test['clean_accuracy']:.3f}", ""),
    ]
    for name, m in test["under"].items():
        value = f"{m['accuracy']:.3f} (95 %: {m['low']:.3f}, {m['high']:.3f})"
        kept = "keeps" if m["satisfied"] else "misses"
        rows.append((f"under {name}", value, f"{kept} {m['floor']:g}"))
    return rows


def show(summary: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the final tables."""
    trials = Table(title=Text(f"Trials of {summary['name']}"), title_justify="left")
    for heading in ("#", "learning rate", "batch size", "loss", "clean", "FGSM", "state"):
        trials.add_column(heading, justify="left" if heading == "state" else "right")
    chosen = summary["recommended"]
    for row in summary["trials"]:
        is_chosen = chosen and all(row[key] == value for key, value in chosen.items())
        trials.add_row(*_cells(row), style="bold green" if is_chosen else _STYLES[row["state"]])
    console.print(trials)
    if summary["test"]:
        held_out = Table(title=f"On {summary['data']['test']} held-out images", show_header=False)
        for what, value, verdict in measured(summary):
            held_out.add_row(what, value, verdict)
        console.print(held_out)
    for line in (*gained(summary), *conclusion(summary)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"Written to {folder}", soft_wrap=True, highlight=False, markup=False)


_STYLES = {"feasible": "", "unsafe": "red", "failed": "dim"}


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary for people, with the picture."""
    settings, data = summary["settings"], summary["data"]
    return "\n".join(
        [
            f"# {escaped(summary['name'])}: {summary['verdict']}",
            "",
            *map(escaped, conclusion(summary)),
            "",
            *(f"- {line}" for line in gained(summary)),
            "",
            f"Tuned: learning rate and batch size of a small convolutional network "
            f"({settings['framework']}) on {escaped(settings['data'])}: {data['train']} training, "
            f"{data['validation']} validation and {data['test']} held-out images; "
            f"{settings['epochs']} epochs a trial, seed {settings['seed']}. Constraint: the lower "
            f"95 % bound of the accuracy under FGSM with eps {settings['eps']:g} is at least "
            f"{settings['min_robust_accuracy']:g}.",
            "",
            *_held_out(summary),
            "![Trials and the course of the best feasible loss](trials.png)",
            "",
            *_table(
                ("#", "learning rate", "batch size", "loss", "clean", "FGSM", "state"),
                [_cells(row) for row in summary["trials"]],
            ),
            "",
            "Versions: " + ", ".join(f"{k} {v}" for k, v in summary["versions"].items()) + ".",
            "",
        ]
    )


def _held_out(summary: Mapping[str, Any]) -> list[str]:
    rows = measured(summary)
    return [*_table(("held out", "", "floor"), rows), ""] if rows else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _cells(row: Row) -> list[str]:
    figures = [_number(row[key]) for key in ("loss", "clean_accuracy", "robust_accuracy")]
    rate = f"{row['learning_rate']:.3g}"
    return [str(row["number"]), rate, str(row["batch_size"]), *figures, row["state"]]


def _figures(row: Row) -> str:
    return (
        f"loss {_number(row['loss'])}  clean {_number(row['clean_accuracy'])}  "
        f"FGSM {_number(row['robust_accuracy'])}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
