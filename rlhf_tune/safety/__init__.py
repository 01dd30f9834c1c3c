"""Safety measurements and the constraints built on them.

What is listed below but `Constraint` and `Measurement` is loaded on first use. A measurement loads
neither a framework, which is found when a model is measured, nor anything of a study.
"""

from typing import TYPE_CHECKING

from rlhf_tune.lazy import face
from rlhf_tune.safety.measurement import Constraint, Measurement

if TYPE_CHECKING:
    from rlhf_tune.safety.custom import by_group, constraint
    from rlhf_tune.safety.early import hopeless
    from rlhf_tune.safety.fairness import GroupFairness, weighted_sum
    from rlhf_tune.safety.group_report import FairnessReport, fairness_report
    from rlhf_tune.safety.leakage import MembershipLeakage
    from rlhf_tune.safety.robustness import RobustAccuracy, perturb
    from rlhf_tune.study.risk import SafetyChecker
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "FairnessReport": "rlhf_tune.safety.group_report",
            "GroupFairness": "rlhf_tune.safety.fairness",
            "MembershipLeakage": "rlhf_tune.safety.leakage",
            "RobustAccuracy": "rlhf_tune.safety.robustness",
            "SafetyChecker": "rlhf_tune.study.risk",
            "by_group": "rlhf_tune.safety.custom",
            "constraint": "rlhf_tune.safety.custom",
            "fairness_report": "rlhf_tune.safety.group_report",
            "hopeless": "rlhf_tune.safety.early",
            "perturb": "rlhf_tune.safety.robustness",
            "weighted_sum": "rlhf_tune.safety.fairness",
        },
    )

__all__ = [
    "Constraint",
    "FairnessReport",
    "GroupFairness",
    "Measurement",
    "MembershipLeakage",
    "RobustAccuracy",
    "SafetyChecker",
    "by_group",
    "constraint",
    "fairness_report",
    "hopeless",
    "perturb",
    "weighted_sum",
]
