"""Adapter of Keras, on the TensorFlow and the torch backend.

`fit` is `model.fit` with moves inside the run; `KerasTrainer` is what it drives.
"""

from typing import TYPE_CHECKING

from rlhf_tune.errors import expect
from rlhf_tune.lazy import face

expect("keras", extra="keras")

if TYPE_CHECKING:
    from rlhf_tune_integrations.keras.adversarial import worst_outputs
    from rlhf_tune_integrations.keras.classify import classifier, weights
    from rlhf_tune_integrations.keras.fairness import mean_price
    from rlhf_tune_integrations.keras.fitting import fit
    from rlhf_tune_integrations.keras.layers import layers_of
    from rlhf_tune_integrations.keras.trainer import KerasTrainer
    from rlhf_tune_integrations.keras.tuning import fine_tune
else:
    __getattr__, __dir__ = face(
        __name__,
        {
            "KerasTrainer": "rlhf_tune_integrations.keras.trainer",
            "classifier": "rlhf_tune_integrations.keras.classify",
            "fine_tune": "rlhf_tune_integrations.keras.tuning",
            "fit": "rlhf_tune_integrations.keras.fitting",
            "layers_of": "rlhf_tune_integrations.keras.layers",
            "mean_price": "rlhf_tune_integrations.keras.fairness",
            "weights": "rlhf_tune_integrations.keras.classify",
            "worst_outputs": "rlhf_tune_integrations.keras.adversarial",
        },
    )

__all__ = [
    "KerasTrainer",
    "classifier",
    "fine_tune",
    "fit",
    "layers_of",
    "mean_price",
    "weights",
    "worst_outputs",
]
