"""Fine-tuning by layer group: which layers are trained, how, and when to stop."""

from typing import TYPE_CHECKING

from rlhf_tune.lazy import face

if TYPE_CHECKING:
    from rlhf_tune.fine_tuning.groups import describe_groups
    from rlhf_tune.fine_tuning.operations import OPERATIONS, RETURN, Operation
    from rlhf_tune.fine_tuning.policies import Learned, TwoLevel
    from rlhf_tune.fine_tuning.result import FineTuned
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "FineTuned": "rlhf_tune.fine_tuning.result",
            "Learned": "rlhf_tune.fine_tuning.policies",
            "OPERATIONS": "rlhf_tune.fine_tuning.operations",
            "Operation": "rlhf_tune.fine_tuning.operations",
            "RETURN": "rlhf_tune.fine_tuning.operations",
            "TwoLevel": "rlhf_tune.fine_tuning.policies",
            "describe_groups": "rlhf_tune.fine_tuning.groups",
        },
    )

__all__ = [
    "OPERATIONS",
    "RETURN",
    "FineTuned",
    "Learned",
    "Operation",
    "TwoLevel",
    "describe_groups",
]
