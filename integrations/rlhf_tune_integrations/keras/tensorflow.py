"""The gradients of a Keras model on TensorFlow."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rlhf_tune.engine import cleverhans, engine
from rlhf_tune.errors import NoGradientError, RlhfTuneError, UnsupportedModelError
from rlhf_tune.foreign import shortened
from rlhf_tune.frameworks import Link, Loss
from rlhf_tune.safety.logits import as_logits, attack_loss
from rlhf_tune_integrations.keras.logits import (
    Forward,
    is_symbolic,
    version_of,
    whole_of,
    without_link,
)


class TensorFlowClassifier:
    """A Keras model on TensorFlow as `rlhf_tune.frameworks.Classifier`."""

    def __init__(
        self, programs: Programs, link: Link | None, whole: TensorFlowClassifier | None = None
    ) -> None:
        self._programs = programs
        self.link, self.whole = link, whole

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs [B, C] in float64; see `Classifier.outputs`."""
        program = self._programs.outputs(x.shape[1:])
        return np.asarray(self._programs.run(program, x), dtype=np.float64)

    def direction(
        self,
        x: NDArray[Any],
        own: NDArray[np.bool_],
        *,
        loss: Loss,
        link: Link,
        rival: NDArray[np.bool_] | None = None,
        draws: int = 1,
    ) -> NDArray[Any]:
        """Sign of each sample's input gradient; see `Classifier.direction`."""
        program = self._programs.direction(x.shape[1:], loss, link, draws)
        others = ~own if rival is None else rival
        return np.asarray(self._programs.run(program, x, own, others))

    @property
    def engine(self) -> str:
        """Who takes the step; see `Classifier.engine`."""
        return engine()


def classifier_of(model: keras.Model) -> TensorFlowClassifier:
    """A Keras model, by the programs that were compiled for it before."""
    kept = _KEPT.get(model)
    if kept is None or kept.version != version_of(model):
        kept = _KEPT[model] = _Kept(model)
    whole = TensorFlowClassifier(kept.whole, kept.link)
    return whole if kept.body is None else TensorFlowClassifier(kept.body, "logit", whole)


class Programs:
    """The compiled functions of one model, one trace each for any batch size.

    They hold its variables but not the model, so that they can be kept for as long as it lives.
    """

    def __init__(self, forward: Forward, dtype: str) -> None:
        self._forward, self.dtype = forward, dtype
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def outputs(self, shape: tuple[int, ...]) -> Any:
        """Of x [B, *shape]: outputs [B, C]."""
        return self._compile(("outputs", shape), self._scores, shape)

    def direction(self, shape: tuple[int, ...], loss: Loss, link: Link, draws: int) -> Any:
        """Of x [B, *shape], own [B, C] and rivals [B, C]: signs [B, *shape].

        These are the two halves of the fast gradient method. Called as a whole that of CleverHans
        keeps every model's graph and weights for ever, in the cache of its inner `tf.function`.
        """
        gradient_of, sign_of = _halves()

        def loss_of(labels: Any, logits: Any) -> Any:
            own, rivals = labels
            rise = (
                attack_loss(as_logits(each, link, keras.ops), own, loss, keras.ops, rivals)
                for each in logits
            )
            return sum(rise) / draws

        def scores(x: Any) -> Any:
            return [self._scores(x) for _ in range(draws)]

        def program(x: Any, own: Any, rivals: Any) -> Any:
            gradient = gradient_of(scores, loss_of, x, (own, rivals))
            if gradient is None:
                raise NoGradientError(
                    "the outputs must be differentiable in the inputs, but they are detached "
                    "from them; tokens, rounding and stop_gradient cannot be measured"
                )
            return sign_of(gradient)

        mask = tf.TensorSpec((None, None), tf.bool)
        return self._compile(("direction", shape, loss, link, draws), program, shape, mask, mask)

    def run(self, program: Any, x: NDArray[Any], *masks: NDArray[np.bool_]) -> Any:
        """What a program gives for a batch."""
        try:
            return program(tf.cast(x, self.dtype), *map(tf.constant, masks))
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as exc:
            raise not_taken(x.shape, self.dtype, exc) from exc

    def _compile(self, key: tuple[Any, ...], program: Any, shape: Any, *specs: Any) -> Any:
        if key not in self._compiled:
            signature = [tf.TensorSpec((None, *shape), self.dtype), *specs]
            function = tf.function(program, signature, autograph=False)
            try:
                self._compiled[key] = function.get_concrete_function()  # cannot trace again
            except (RlhfTuneError, tf.errors.ResourceExhaustedError):
                raise
            except Exception as exc:  # layers raise what they like
                raise not_taken(("B", *shape), self.dtype, exc) from exc
        return self._compiled[key]

    def _scores(self, x: Any) -> Any:
        outputs = self._forward(x)
        if not keras.ops.is_tensor(outputs):
            raise UnsupportedModelError(
                f"the model must return one tensor [B, C], but returned "
                f"{type(outputs).__name__}; wrap it in a model that returns the class scores"
            )
        if len(outputs.shape) == 1:
            outputs = outputs[:, None]
        if len(outputs.shape) != 2:
            raise UnsupportedModelError(
                f"the model must return class scores [B, C], but returned {outputs.shape}"
            )
        return keras.ops.cast(outputs, np.result_type(outputs.dtype.name, np.float32).name)


def _halves() -> tuple[Any, Any]:
    """The gradient, and the step of length 1 along it: CleverHans', or the same by ourselves."""
    theirs = cleverhans("cleverhans.tf2.utils")
    if theirs is None:
        return _gradient, tf.sign
    gradient_of = partial(theirs.compute_gradient.python_function, targeted=False)
    return gradient_of, partial(theirs.optimize_linear, eps=1.0, norm=np.inf)


def _gradient(scores: Forward, loss_of: Any, x: Any, labels: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = loss_of(labels, scores(x))
    return tape.gradient(loss, x)


def not_taken(shape: tuple[Any, ...], dtype: str, exc: Exception) -> UnsupportedModelError:
    """What is said of a model whose layers refuse a batch."""
    return UnsupportedModelError(
        f"the model must take batches of `x`, here [{', '.join(map(str, shape))}] of {dtype}, but "
        f"calling it raised {type(exc).__name__}: {shortened(exc)}"
    )


class _Kept:
    """The compiled programs of a model, while it is the same."""

    def __init__(self, model: keras.Model) -> None:
        self.version = version_of(model)
        # As long as these live, no other object has their place in memory, which the version is.
        self._alive = [*model._flatten_layers(include_self=False), getattr(model, "outputs", None)]
        dtype = model.inputs[0].dtype if is_symbolic(model) else model.variable_dtype
        body, self.link = without_link(model)
        self.whole = Programs(whole_of(model), dtype)
        self.body = None if body is None else Programs(body, dtype)


_KEPT: weakref.WeakKeyDictionary[keras.Model, _Kept] = weakref.WeakKeyDictionary()
