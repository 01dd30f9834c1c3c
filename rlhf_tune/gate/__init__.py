"""The deployment gate: safety measurements as a verdict on one model file.

Importing this loads neither torch nor TensorFlow; the model's framework is found when it is
loaded or measured.
"""

from rlhf_tune.gate.artifact import Identity
from rlhf_tune.gate.check import assert_gate, check
from rlhf_tune.gate.report import GateReport, schema

__all__ = ["GateReport", "Identity", "assert_gate", "check", "schema"]
