"""Studies by their names, as commands are given them."""

from __future__ import annotations

import optuna

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.foreign import shortened


def load(name: str, storage: str) -> optuna.Study:
    """The study `name` of a storage's URL.

    Raises:
        InvalidInputError: If there is none, or the storage cannot be read.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except Exception as exc:
        raise InvalidInputError(
            f"`--study` must be one of `--storage`, but {name!r} of {storage!r} cannot be read "
            f"({type(exc).__name__}: {shortened(exc)}); give a storage like sqlite:///mnist.db"
        ) from exc
