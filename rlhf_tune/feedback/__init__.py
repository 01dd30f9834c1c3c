"""Human feedback: judgements of outcomes, how far they can be trusted, and what they ask for.

Nothing here knows a study or a framework. The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from rlhf_tune.lazy import face

if TYPE_CHECKING:
    from rlhf_tune.feedback.asking import more_needed, next_group, next_pair, sure_answers
    from rlhf_tune.feedback.choice import Annotators, bradley_terry, fit_annotators
    from rlhf_tune.feedback.judgements import Judgement, JudgementLog
    from rlhf_tune.feedback.quality import (
        Quality,
        krippendorff_alpha,
        quality_of,
        weights_by_annotator,
    )
    from rlhf_tune.feedback.reward_model import RewardModel
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "Annotators": "rlhf_tune.feedback.choice",
            "Judgement": "rlhf_tune.feedback.judgements",
            "JudgementLog": "rlhf_tune.feedback.judgements",
            "Quality": "rlhf_tune.feedback.quality",
            "RewardModel": "rlhf_tune.feedback.reward_model",
            "bradley_terry": "rlhf_tune.feedback.choice",
            "fit_annotators": "rlhf_tune.feedback.choice",
            "krippendorff_alpha": "rlhf_tune.feedback.quality",
            "more_needed": "rlhf_tune.feedback.asking",
            "next_group": "rlhf_tune.feedback.asking",
            "next_pair": "rlhf_tune.feedback.asking",
            "quality_of": "rlhf_tune.feedback.quality",
            "sure_answers": "rlhf_tune.feedback.asking",
            "weights_by_annotator": "rlhf_tune.feedback.quality",
        },
    )

__all__ = [
    "Annotators",
    "Judgement",
    "JudgementLog",
    "Quality",
    "RewardModel",
    "bradley_terry",
    "fit_annotators",
    "krippendorff_alpha",
    "more_needed",
    "next_group",
    "next_pair",
    "quality_of",
    "sure_answers",
    "weights_by_annotator",
]
