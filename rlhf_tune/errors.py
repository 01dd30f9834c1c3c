"""The exception tree, and the import of optional packages."""

from __future__ import annotations

import importlib
import os
import traceback
from types import ModuleType
from typing import Any


class RlhfTuneError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(RlhfTuneError, ValueError):
    """A value handed in breaks a rule; the message says rule, value and remedy."""


class UnsupportedModelError(RlhfTuneError, TypeError):
    """The model is of a kind that cannot be measured; the message says why."""


class NoGradientError(UnsupportedModelError):
    """The outputs are detached from the inputs, so that no gradient leads from one to the other."""


class MissingExtraError(RlhfTuneError, ImportError):
    """An optional package is needed; the message names the ``pip install`` line."""


class ArtifactError(RlhfTuneError):
    """A model's file is unsafe to load, or unreadable; nothing that it holds was executed."""


class TooFewSamplesError(RlhfTuneError):
    """No result could satisfy the constraint at this confidence; the message says what n could."""


class NoAllowedMoveError(RlhfTuneError):
    """The mask forbids every action, so no agent may act."""


class DivergedError(RlhfTuneError):
    """Training diverged, and no smaller learning rate would help; the message names the cause.

    Attributes:
        best: The model, at the best state there was.
        history: Of the run until then.
    """

    best: Any = None
    history: Any = None


class CannotCertify(RlhfTuneError):  # noqa: N818 - an outcome that callers handle by this name
    """No candidate satisfies its constraints at the asked confidence.

    Attributes:
        best: The best there was all the same, such as a model; None where there is nothing.
        history: What led there, where it was recorded.
    """

    def __init__(self, message: str, *, best: Any = None) -> None:
        super().__init__(message)
        self.best = best
        self.history: Any = None


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: The dotted module name.
        extra: The extra of this distribution that installs it.

    Raises:
        MissingExtraError: If the module's top-level package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        package = module.partition(".")[0]
        if exc.name is None or exc.name.partition(".")[0] != package:
            raise  # the package is there, something it needs is not: its own message says what
        raise MissingExtraError(
            f"`{package}` must be installed for this; run: pip install 'rlhf-tune[{extra}]'"
        ) from exc


UNFORESEEN = 70
"""The exit status of an error that nobody foresaw: never that of a verdict."""


def sentence(exc: BaseException) -> str:
    """An exception as one line; what nobody foresaw also says its type.

    Its traceback is printed first where the environment variable ``RLHF_TUNE_DEBUG`` is set.
    """
    if os.environ.get("RLHF_TUNE_DEBUG"):
        traceback.print_exception(exc)
    text = plain(str(exc))
    if isinstance(exc, RlhfTuneError) and text:
        return text
    return f"unexpected {type(exc).__name__}: {text}"[:500]


def plain(text: str) -> str:
    """Text of unknown origin on one line, without what steers a terminal or turns its direction."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
