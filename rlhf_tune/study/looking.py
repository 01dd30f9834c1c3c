"""What a study shows: its recommendation, its candidate moves, its risk; whoever sampled it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from optuna.study import Study

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.explanation import Explanation
from rlhf_tune.study.risk import Risk
from rlhf_tune.study.sampler import DQNSampler


class Settings(TypedDict, total=False):
    """Arguments of `DQNSampler`, for a study whose sampler is another or was not loaded."""

    policy: str
    roles: Mapping[str, str]
    budget: int
    confidence: float
    price: float | None
    max_unsafe: int
    seed: int


def recommend(study: Study, **settings: Unpack[Settings]) -> dict[str, Any]:
    """The parameters to use; see `DQNSampler.recommend`.

    Works on any study of one objective, loaded or in memory, also if another sampler or another
    library's search proposed its trials: everything is read from the trials.

    Args:
        study: Only read.
        settings: Arguments of `DQNSampler`, such as `policy` or `roles`. Without any, those of
            the study's own sampler where that is a `DQNSampler`, else the defaults.

    Raises:
        CannotCertify: If no trial is complete, fully checked and feasible.
        InvalidInputError: If it is no study, or has several objectives.
    """
    return agent_of(study, **settings).recommend(study)


def explain(study: Study, **settings: Unpack[Settings]) -> Explanation:
    """The candidate moves of a next trial, best first; see `DQNSampler.explain`.

    Empty before any trial is complete. Arguments and errors as those of `recommend`; the random
    stream is that of seed 0 where none is given.
    """
    return agent_of(study, **settings).explain(study)


def risk(study: Study, **settings: Unpack[Settings]) -> Risk:
    """The risk predicted for each trial before it ran, beside what was measured.

    See `DQNSampler.risk`. Arguments and errors as those of `recommend`.
    """
    return agent_of(study, **settings).risk(study)


def agent_of(study: Study, **settings: Unpack[Settings]) -> DQNSampler:
    """The sampler that looks at a study: its own, or one with these settings.

    Raises:
        InvalidInputError: If it is no study, or has several objectives.
    """
    if not isinstance(study, Study):
        raise InvalidInputError(
            f"`study` must be an optuna.Study, but got {type(study).__name__}; load one by "
            "optuna.load_study(study_name=..., storage=...)"
        )
    if len(study.directions) > 1:
        raise InvalidInputError(
            f"a study must have one objective, but {study.study_name!r} has "
            f"{len(study.directions)}; make a constraint of the others: trial.set_constraint"
        )
    if isinstance(study.sampler, DQNSampler) and not settings:
        return study.sampler
    return DQNSampler(**(Settings(seed=0) | settings))
