"""Adapter of PyTorch.

`fit` trains a model with moves inside the run; `Controller` is for loops written by hand;
`TorchTrainer` is what both drive.
"""

from typing import TYPE_CHECKING

from rlhf_tune.errors import expect
from rlhf_tune.lazy import face

expect("torch", extra="torch")

if TYPE_CHECKING:
    from rlhf_tune_integrations.pytorch.adversarial import worst_outputs
    from rlhf_tune_integrations.pytorch.classify import (
        TorchClassifier,
        borrowed,
        classifier,
        weights,
    )
    from rlhf_tune_integrations.pytorch.controller import Controller
    from rlhf_tune_integrations.pytorch.fairness import mean_price
    from rlhf_tune_integrations.pytorch.fitting import fit
    from rlhf_tune_integrations.pytorch.layers import layers_of
    from rlhf_tune_integrations.pytorch.trainer import TorchTrainer
    from rlhf_tune_integrations.pytorch.tuning import fine_tune
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "Controller": "rlhf_tune_integrations.pytorch.controller",
            "TorchClassifier": "rlhf_tune_integrations.pytorch.classify",
            "TorchTrainer": "rlhf_tune_integrations.pytorch.trainer",
            "borrowed": "rlhf_tune_integrations.pytorch.classify",
            "classifier": "rlhf_tune_integrations.pytorch.classify",
            "fine_tune": "rlhf_tune_integrations.pytorch.tuning",
            "fit": "rlhf_tune_integrations.pytorch.fitting",
            "layers_of": "rlhf_tune_integrations.pytorch.layers",
            "mean_price": "rlhf_tune_integrations.pytorch.fairness",
            "weights": "rlhf_tune_integrations.pytorch.classify",
            "worst_outputs": "rlhf_tune_integrations.pytorch.adversarial",
        },
    )

__all__ = [
    "Controller",
    "TorchClassifier",
    "TorchTrainer",
    "borrowed",
    "classifier",
    "fine_tune",
    "fit",
    "layers_of",
    "mean_price",
    "weights",
    "worst_outputs",
]
