"""What other samplers would have run into: played on a recorded table of the demo's task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_tune.demo.settings import Settings

FILE = Path(__file__).with_name("recorded.json")


def same_task(settings: Settings) -> dict[str, Any]:
    """The settings that a recorded table depends on; the floor is asked of it afterwards."""
    return {key: settings.fixed[key] for key in ("data", "epochs", "eps", "max_train")}
