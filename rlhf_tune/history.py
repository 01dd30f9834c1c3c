"""The transitions of a study, at their documented place."""

from rlhf_tune.study.transitions import Transitions, transitions

__all__ = ["Transitions", "transitions"]
