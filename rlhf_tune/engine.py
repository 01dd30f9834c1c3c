"""Who takes the gradient step of an attack: CleverHans where it is installed, else we do.

Both compute the same from the same gradient, bit for bit, so a result does not depend on who did.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

OWN = "rlhf_tune"


def cleverhans(module: str) -> ModuleType | None:
    """A module of CleverHans; None where that is not installed."""
    return importlib.import_module(module) if _is_installed() else None


def engine() -> str:
    """The name of the engine, with CleverHans' version."""
    return f"cleverhans {metadata.version('cleverhans')}" if _is_installed() else OWN


def _is_installed() -> bool:
    return importlib.util.find_spec("cleverhans") is not None
