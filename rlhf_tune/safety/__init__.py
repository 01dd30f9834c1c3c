"""Safety measurements and the constraints built on them.

Importing this loads neither torch nor TensorFlow; a model's framework is found when it is
measured.
"""

from rlhf_tune.safety.checker import SafetyChecker
from rlhf_tune.safety.constraint import Constraint, Measurement, by_group, constraint
from rlhf_tune.safety.leakage import MembershipLeakage
from rlhf_tune.safety.probe import hopeless
from rlhf_tune.safety.robustness import RobustAccuracy, perturb

__all__ = [
    "Constraint",
    "Measurement",
    "MembershipLeakage",
    "RobustAccuracy",
    "SafetyChecker",
    "by_group",
    "constraint",
    "hopeless",
    "perturb",
]
