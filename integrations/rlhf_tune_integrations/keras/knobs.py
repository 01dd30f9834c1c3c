"""The weights of remedies in a Keras run, and the term that they add to `compute_loss`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import keras

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.safety.remedy import Batch, Remedy


@final
class Knobs:
    """Adds terms to the training loss of a model, until `close`.

    The weights are variables, so that a traced step reads them and moving one traces nothing anew.
    They are not the model's, whose files would else hold them.

    Attributes:
        variables: By name.
    """

    def __init__(self, remedies: Iterable[Remedy], model: keras.Model) -> None:
        """Replace the model's `compute_loss`.

        Raises:
            UnsupportedModelError: If it cannot tell training from validation.
        """
        if not model._compute_loss_has_training_arg:
            raise UnsupportedModelError(
                "with reach=True compute_loss must have the argument `training`, as validation "
                "has no use for a remedy; add training=True to its signature"
            )
        self.variables = {
            name: keras.Variable(weight, trainable=False, dtype="float32", name=name)
            for remedy in remedies
            for name, weight in remedy.first.items()
        }
        self._remedies, self._model, self._loss = tuple(remedies), model, model.compute_loss
        self._asked = False
        model.compute_loss = self._with_terms
        model.train_function = None  # one that was traced before knows nothing of them

    def close(self) -> None:
        """Give the model its own loss back."""
        del self._model.compute_loss
        self._model.train_function = None

    def check(self) -> None:
        """Raise `InvalidInputError` if the training step was made without them."""
        if not self._asked:
            raise InvalidInputError(
                f"with reach=True train_step must take its loss from self.compute_loss, but it "
                f"never called it, so {sorted(self.variables)} would move nothing"
            )

    def _with_terms(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        def loss(outputs: Any) -> Any:
            return self._loss(x, y, outputs, sample_weight, training=training)

        total = loss(y_pred)
        if not training:
            return total
        self._asked = True
        batch = Batch(x, y, loss)
        for remedy in self._remedies:
            weights = {
                name: keras.ops.cast(self.variables[name], total.dtype) for name in remedy.names
            }
            total = total + remedy.term(self._model, batch, y_pred, weights)
        return total
