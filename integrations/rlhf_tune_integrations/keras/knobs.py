"""The weights of remedies in a Keras run, and the term that they add to `compute_loss`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, final

import keras

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.safety.remedy import Batch, Remedy, columns_of
from rlhf_tune_integrations.keras.batches import is_arrays, kept, len_of


@final
class Knobs:
    """Adds terms to the training loss of a model, until `close`.

    The weights are variables, so that a traced step reads them and moving one traces nothing anew.
    They are not the model's, whose files would else hold them.

    Attributes:
        variables: By name.
    """

    def __init__(
        self, remedies: Collection[Remedy], model: keras.Model, *, pairs: bool = False
    ) -> None:
        """Replace the model's `compute_loss`; and its `train_step`, where batches come in pairs.

        Args:
            remedies: Whose terms are added.
            model: Their model.
            pairs: Whether a batch is a pair of what Keras knows and of `Beside.columns`.

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
        self._columns: Any = {}
        self._step = model.train_step if pairs else None
        self._asked = False
        model.compute_loss = self._with_terms
        if pairs:
            model.train_step = self._unpaired
        model.train_function = None  # one that was traced before knows nothing of them

    def close(self) -> None:
        """Give the model its own loss back."""
        del self._model.compute_loss
        if self._step:
            del self._model.train_step
        self._model.train_function = None

    def check(self) -> None:
        """Raise `InvalidInputError` if the training step was made without them."""
        if not self._asked:
            raise InvalidInputError(
                f"with reach=True train_step must take its loss from self.compute_loss, but it "
                f"never called it, so {sorted(self.variables)} would move nothing"
            )

    def _unpaired(self, pair: Any) -> Any:
        """The training step on a batch, whose columns are kept for its loss."""
        batch, self._columns = pair
        assert self._step is not None  # noqa: S101 - else this is not the step
        return self._step(batch)

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
        for remedy in self._remedies:
            weights = {
                name: keras.ops.cast(self.variables[name], total.dtype) for name in remedy.names
            }
            batch = Batch(x, y, loss, self._columns.get(remedy.names[0]))
            term = remedy.term(self._model, batch, y_pred, weights)
            total = total + keras.ops.cast(term, total.dtype)
        return total


@final
class Beside:
    """What remedies ask of the groups of training samples, to come beside the batches."""

    def __init__(self, remedies: Collection[Remedy]) -> None:
        self._asking = [remedy for remedy in remedies if remedy.columns is not None]

    def columns(self, groups: Any, n: int | None = None) -> dict[str, Any]:
        """Of each remedy, by the name of its first weight: floats [N, C]."""
        made = columns_of(self._asking, groups, n)
        return {each.names[0]: part for each, part in zip(self._asking, made, strict=True)}

    def paired(self, batch: Any) -> Any:
        """Of a batch of a stream, whose last element are the groups."""
        *rest, groups = batch
        if isinstance(groups, dict):
            groups = {name: keras.ops.convert_to_numpy(part) for name, part in groups.items()}
        else:
            groups = keras.ops.convert_to_numpy(groups)
        columns = self.columns(groups)
        return tuple(rest), {k: keras.ops.convert_to_tensor(v) for k, v in columns.items()}


def prepared(
    remedies: Collection[Remedy],
    groups: Any,
    x: Any,
    y: Any,
    validation_data: Any,
    validation_split: float,
) -> tuple[Any, Callable[[keras.Model], Knobs] | None]:
    """What comes beside the batches, and how the `Knobs` of a model are made.

    Beside are columns of arrays [N, C] by name, without those that `validation_split` takes away;
    or a function that pairs a stream's batch with its own; None where no remedy asks for groups.

    Raises:
        InvalidInputError: If groups are missing, or not asked for, or of another length.
    """
    asked = any(remedy.columns for remedy in remedies)
    beside: Any = None
    if not asked:
        columns_of(remedies, groups, None)
    elif is_arrays(x, y):
        beside = Beside(remedies).columns(groups, len_of((x, y)))
        if validation_data is None and validation_split:
            beside = kept(beside, validation_split)
    elif groups is None:
        beside = Beside(remedies).paired
    else:
        raise InvalidInputError(
            "the groups of such data must come with its batches, as a further element "
            "(x, y, groups), but got `groups` beside it"
        )
    make = partial(Knobs, remedies, pairs=beside is not None) if remedies else None
    return beside, make
