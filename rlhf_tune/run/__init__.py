"""One training run: one stretch a step, verified, and committed or rolled back."""

from typing import TYPE_CHECKING

from rlhf_tune.lazy import face

if TYPE_CHECKING:
    from rlhf_tune.run.driver import Run
    from rlhf_tune.run.history import Epoch, History
    from rlhf_tune.run.policies import RunPolicy
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "Epoch": "rlhf_tune.run.history",
            "History": "rlhf_tune.run.history",
            "Run": "rlhf_tune.run.driver",
            "RunPolicy": "rlhf_tune.run.policies",
        },
    )

__all__ = ["Epoch", "History", "Run", "RunPolicy"]
