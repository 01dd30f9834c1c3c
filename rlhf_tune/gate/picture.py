"""The picture of a sweep: accuracy over the radius of the attack."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rlhf_tune.errors import require
from rlhf_tune.gate.outputs import MARK

_UNITS = "units of the data"
_LOOKS = {"noise": ("tab:gray", ":"), "fgsm": ("tab:blue", "--"), "pgd": ("tab:orange", "-.")}


def draw(document: Mapping[str, Any]) -> bytes:
    """The curve of a report's JSON document as a PNG; equal curves give equal bytes.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="gate")
    figure = figures.Figure(figsize=(6.5, 4), layout="constrained")  # drawn by Agg, no display
    axes = figure.subplots()
    curve, eps = document["curve"], document["inputs"]["spec"]["eps"]
    by_feature = isinstance(eps, list)
    radii = [point["eps"] for point in curve]
    for name in curve[0]["under"]:
        color, dashes = _LOOKS[name]
        heights = [point["under"][name] for point in curve]
        axes.plot(radii, heights, color=color, linestyle=dashes, marker=".", label=name)
    worst = [point["worst"] for point in curve]
    axes.plot(radii, worst, color="black", marker="o", markersize=4, label="worst of them")
    for row in document["requirements"]:
        if row["name"] == "robust_accuracy":
            _draw_requirement(axes, row, 1.0 if by_feature else eps)
    axes.set(
        title=f"Deployment gate: {document['verdict']}",
        xlabel=f"radius of the attack (Linf, in {'multiples of eps' if by_feature else _UNITS})",
        ylabel="accuracy",
        ylim=(-0.02, 1.02),
    )
    axes.grid(color="0.92")
    axes.legend(fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None, "Source": MARK})
    return content.getvalue()


def _draw_requirement(axes: Any, row: Mapping[str, Any], eps: float) -> None:
    value, (low, high) = row["value"], row["interval"]
    look = {"fmt": "D", "color": "crimson", "capsize": 4, "label": "measured, with its bounds"}
    axes.errorbar([eps], [value], yerr=[[value - low], [high - value]], **look)
    axes.axhline(row["bound"], color="crimson", linewidth=0.8, label="floor")
