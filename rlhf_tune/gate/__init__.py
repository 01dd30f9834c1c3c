"""The deployment gate: safety measurements as a verdict on one model file.

Everything is loaded on first use, so that the command line can show its help at once. Neither
torch nor TensorFlow is loaded before a model is; its framework is found then.
"""

from typing import TYPE_CHECKING

from rlhf_tune.lazy import face

if TYPE_CHECKING:
    from rlhf_tune.gate.artifact import Identity
    from rlhf_tune.gate.constitution import Constitution
    from rlhf_tune.gate.decision import assert_gate, check
    from rlhf_tune.gate.report import GateReport, schema
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "Constitution": "rlhf_tune.gate.constitution",
            "GateReport": "rlhf_tune.gate.report",
            "Identity": "rlhf_tune.gate.artifact",
            "assert_gate": "rlhf_tune.gate.decision",
            "check": "rlhf_tune.gate.decision",
            "schema": "rlhf_tune.gate.report",
        },
    )

__all__ = ["Constitution", "GateReport", "Identity", "assert_gate", "check", "schema"]
