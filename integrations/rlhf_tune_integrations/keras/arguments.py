"""What `fit` for Keras refuses, and what it derives from the model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.run.mode import Mode, ModeName, mode_of
from rlhf_tune.run.policies import RunPolicy, resolve
from rlhf_tune.run.schedules import ADAPTIVE, SGD
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.keras.batches import len_of, size_of_batches
from rlhf_tune_integrations.keras.rate import rate_of

Listeners = list[keras.callbacks.Callback]

_SETS_THE_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
_REFUSED = {
    keras.callbacks.SwapEMAWeights: "callbacks see an epoch after its validation, so the weights "
    "would be swapped too late; use SwapEMAWeights with model.fit",
    keras.callbacks.BackupAndRestore: "a run cannot be taken up again in the middle; "
    "save the model, and call fit again",
}


def listed(callbacks: Any) -> Listeners:
    """The callbacks of what `model.fit` takes as such, less those that `fit` brings itself."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        own = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
        callbacks = [c for c in callbacks.callbacks if type(c) not in own]
    listeners: Listeners = keras.tree.flatten(callbacks) if callbacks else []
    for listener in listeners:
        if not hasattr(listener, "set_model"):
            raise InvalidInputError(
                f"`callbacks` must hold callbacks of Keras, but got {type(listener).__name__}"
            )
    return listeners


def check_arguments(
    model: keras.Model,
    listeners: Listeners,
    policy: str | RunPolicy,
    constraints: Sequence[Constraint],
) -> None:
    """Raise what `fit` says of arguments that cannot work together, before anything is trained."""
    resolve(policy)
    check_model(model)
    _check_listeners(listeners)
    _check_owner(model, listeners, policy)
    _check_average(model, constraints)


def check_call(policy: object, checkpoint: object) -> None:
    """Refuse a run that is to be written, but in Keras' own loop."""
    if policy == "constant" and checkpoint is not None:
        raise InvalidInputError(
            "`checkpoint` must be None with policy='constant', which trains in Keras' own loop; "
            "without constraints model.fit and BackupAndRestore do it"
        )


def check_model(model: keras.Model) -> None:
    """Raise `UnsupportedModelError` if the model cannot be driven."""
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "torch"):
        raise UnsupportedModelError(
            f"the Keras backend must be 'tensorflow' or 'torch', but is {backend!r}"
        )
    if not model.compiled:
        raise UnsupportedModelError("the model must be compiled; call model.compile() first")
    if type(model).fit is not keras.Model.fit:
        raise UnsupportedModelError(
            f"the model must be trained by Keras' fit, but {type(model).__name__} has its own; "
            f"override train_step instead"
        )
    optimizers = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    if {id(v) for v in optimizers} != {id(model.optimizer)}:
        raise UnsupportedModelError(
            f"the model must have one optimizer, but has {max(len(optimizers), 2)}: "
            f"it is not clear whose learning rate to change"
        )
    if getattr(model.optimizer, "optimizers", None):  # a MultiOptimizer
        raise UnsupportedModelError(
            f"the optimizer must have one learning rate, but {type(model.optimizer).__name__} "
            f"has one for each of its own; policy='constant' without constraints trains with it"
        )
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if replicas > 1 or keras.distribution.distribution() is not None:
        raise UnsupportedModelError("the model must be trained on one device, not distributed")


def check_trained(model: keras.Model) -> None:
    """Raise `InvalidInputError` if training could change nothing of a built model."""
    trained = {id(v) for v in model.trainable_variables}
    if not trained:
        raise InvalidInputError(
            "the model must have weights that are trained, but all of its layers are frozen; "
            "set `trainable`, and compile it again"
        )
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    held = {id(v) for v in getattr(optimizer, "_trainable_variables", ())}
    if held and held.isdisjoint(trained):
        raise InvalidInputError(
            "the optimizer must be that of the model, but it was built for the variables of "
            "another; compile the model with an optimizer of its own"
        )


def fixed_batch(model: keras.Model, size: int | None) -> int | None:
    """The only batch size that a model takes; None where it takes any.

    Args:
        model: As it was given, built or not.
        size: Of the batches that it is built by, if known.
    """
    inputs = getattr(model, "inputs", None) or []
    fixed = next((i.shape[0] for i in inputs if i.shape[0]), None)
    stateful = any(getattr(layer, "stateful", False) for layer in model._flatten_layers())
    return fixed or (size if stateful else None)


def check_whole(
    name: str, data: Any, fixed: int, batch_size: int | None, steps: int | None
) -> None:
    """Refuse arrays that do not come in whole batches where the model takes no others."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    size = size_of_batches(x, y, batch_size, steps)
    if size is not None and (size != fixed or len_of(x) % fixed):
        raise InvalidInputError(
            f"the model takes batches of {fixed} samples only, so `{name}` must be a multiple of "
            f"that, but it holds {len_of(x)} samples in batches of {size}; leave the rest out, "
            f"and set `batch_size` and `validation_batch_size`"
        )


def _check_listeners(listeners: Listeners) -> None:
    """Refuse callbacks that cannot work where an epoch is told after it was verified."""
    for listener in listeners:
        for kind, why in _REFUSED.items():
            if isinstance(listener, kind):
                raise InvalidInputError(f"`callbacks` must not hold a {kind.__name__}: {why}")


def _check_owner(model: keras.Model, listeners: Listeners, policy: object) -> None:
    """Only one side may set the learning rate."""
    owners = [type(c).__name__ for c in listeners if isinstance(c, _SETS_THE_RATE)]
    if isinstance(rate_of(model.optimizer), LearningRateSchedule):
        owners.append(f"the optimizer's {type(rate_of(model.optimizer)).__name__}")
    if owners and policy != "constant":
        raise InvalidInputError(
            f"only one side may set the learning rate, but policy={policy!r} and {owners[0]} do; "
            f"leave that out, or say policy='constant'"
        )


def _check_average(model: keras.Model, constraints: Sequence[Constraint]) -> None:
    """The average of the weights is put in place at the very end, where nothing is measured."""
    if constraints and getattr(model.optimizer, "inner_optimizer", model.optimizer).use_ema:
        raise InvalidInputError(
            "with constraints the optimizer must not have use_ema=True: the averaged weights "
            "that training ends with would not be the ones that were measured"
        )


def mode_by_keras(model: keras.Model, monitor: str, mode: ModeName) -> Mode:
    """Whether less is better; "auto" goes by what Keras knows of its metrics."""
    if mode != "auto":
        return mode_of(monitor, mode)
    early = keras.callbacks.EarlyStopping(monitor)
    early.set_model(model)
    try:
        early._set_monitor_op()
    except ValueError as exc:
        raise InvalidInputError(
            f"`mode` must be 'min' or 'max' where Keras does not know which is better, "
            f"but got 'auto' for {monitor!r}"
        ) from exc
    return "min" if early.monitor_op is keras.ops.less else "max"


def usual_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The default learning rate of an optimizer of that kind."""
    kind = type(getattr(optimizer, "inner_optimizer", optimizer))
    if kind is keras.optimizers.SGD:
        return SGD
    default = inspect.signature(kind).parameters.get("learning_rate")
    value = None if default is None else default.default
    return float(value) if isinstance(value, float | int) else ADAPTIVE
