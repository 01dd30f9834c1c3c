"""A classifier together with the samples it is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.engine import OWN
from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.frameworks import Classifier, Link, Loss
from rlhf_tune.safety.logits import as_logits

BATCH = 256

Outputs = Literal["auto", "logits", "probabilities"]
"""What a model's outputs are, where its user says so."""

_LINKS: dict[Outputs, Link] = {"logits": "logit", "probabilities": "probability"}
_ROUNDING = 1e-2  # of sums to 1, and of the outputs' spread: half precision rounds to .4 %


@final
class Evaluation:
    """What a measurement sees of a model: its predictions and logits, and gradient signs.

    Predictions are those of the model as it is served. Logits and gradients may leave out its last
    activation, where it agrees with the whole on every clean sample. The clean samples pass the
    model here, once in order and once in another order and batch size.

    Attributes:
        x: Inputs [N, ...].
        own: Mask [N, C] of each sample's true class.
        logits: Clean logits [N, C], C >= 2.
        right: Mask [N] of the samples that the model gets right.
        doubts: Why what was seen so far cannot be trusted, one sentence each.
        engine: Who took the gradient steps; None before the first.
    """

    engine: str | None = None

    def __init__(
        self,
        classifier: Classifier,
        x: NDArray[Any],
        y: NDArray[np.int64],
        batch_size: int = BATCH,
        *,
        outputs: Outputs = "auto",
        draws: int = 1,
    ) -> None:
        """Pass the clean samples.

        Args:
            classifier: The model, on loan.
            x: Inputs [N, ...].
            y: True labels [N].
            batch_size: Samples at a time.
            outputs: What the model's outputs are; "auto" goes by its last layer, else by values.
            draws: Passes of a random model over which gradients are averaged; above 1 the model
                may be random.

        Raises:
            InvalidInputError: If a label is not one of the model's classes, or `outputs`
                contradicts the model.
            UnsupportedModelError: If the model cannot be measured.
        """
        check_outputs(outputs)
        self._served: Classifier = getattr(classifier, "whole", None) or classifier
        self._surrogate, self._draws = classifier, draws
        self._finite = True
        self.x = x
        served = self._forward(self._served, x, batch_size)
        self._link = self._link_of(served, outputs)
        self._served_clean, self._guessed = served, self._is_guess(served, outputs)
        self.logits = self._logits_to_attack(served, batch_size)
        classes = self.logits.shape[1]
        if y.max() >= classes:
            _check_no_labels(served)
            raise InvalidInputError(
                f"labels must be below the model's {classes} classes, but `y` has {y.max()}"
            )
        self.own = y[:, None] == np.arange(classes)
        self.right = self._is_right(served, self.own)
        self._unsteady = self._unsteadiness(batch_size)

    @property
    def predicted(self) -> NDArray[np.intp]:
        """The class [N] of each clean sample, as the model is served."""
        return _predicted(self._served_clean, self._link)

    @property
    def doubts(self) -> list[str]:
        """Why the outputs seen so far cannot be trusted, one sentence each."""
        doubts = self.doubts_of_predictions
        whole = self._surrogate is self._served and self._link == "probability"
        if whole and _saturate(self._served_clean):
            doubts.append(
                "the probabilities saturate: those of other classes are exactly 0, and no logits "
                "can be recovered; let the model return logits, or end in a softmax layer"
            )
        return doubts

    @property
    def doubts_of_predictions(self) -> list[str]:
        """Those of what was predicted, whatever the logits."""
        doubts = [] if self._finite else ["the model's outputs are not finite"]
        if self._unsteady is not None:
            doubts.append(self._unsteady)
        if self._guessed:
            doubts.append(
                "the single output lies within [0, 1], and nothing says whether it is a logit or "
                "a probability; say outputs='logits' or outputs='probabilities'"
            )
        return doubts

    def stays_right(self, moved: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Mask [B] of the samples `rows` that the model gets right at `moved` [B, ...]."""
        return self._is_right(self._forward(self._served, moved, BATCH), self.own[rows])

    def margins(self, moved: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """How far the model as served is from missing the samples `rows` at `moved` [B].

        The smallest difference of the true class's logit to another's; -1 where it is wrong, or
        where outputs are not finite.
        """
        outputs = self._forward(self._served, moved, BATCH)
        logits, own = _as_logits(outputs, self._link), self.own[rows]
        with np.errstate(invalid="ignore"):
            margin = np.where(own, logits, 0.0).sum(1) - np.where(own, -np.inf, logits).max(1)
        right = self._is_right(outputs, own)
        return np.where(right, np.nan_to_num(np.maximum(margin, 0.0), nan=0.0), -1.0)

    def logits_at(self, moved: NDArray[Any]) -> NDArray[np.float64]:
        """Logits [B, C] of other inputs [B, ...], as they are attacked."""
        outputs = self._forward(self._surrogate, moved, BATCH)
        return _as_logits(outputs, self._attacked_link)

    def direction(
        self,
        at: NDArray[Any],
        rows: NDArray[np.intp],
        loss: Loss,
        rival: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Sign of the loss gradient [B, ...] of the samples `rows` at `at`; 0 where undefined."""
        more: dict[str, Any] = {} if rival is None else {"rival": rival}
        if self._draws > 1:
            more["draws"] = self._draws
        self.engine = self.engine or getattr(self._surrogate, "engine", OWN)
        signs = self._surrogate.direction(
            at, self.own[rows], loss=loss, link=self._attacked_link, **more
        )
        return np.asarray(np.nan_to_num(signs, nan=0.0))

    @property
    def _attacked_link(self) -> Link:
        return self._link if self._surrogate is self._served else "logit"

    def _forward(
        self, classifier: Classifier, x: NDArray[Any], batch_size: int
    ) -> NDArray[np.float64]:
        floats = np.result_type(x.dtype, np.float32)
        parts = [
            classifier.outputs(x[rows].astype(floats, copy=False))
            for rows in batches(np.arange(len(x)), batch_size)
        ]
        outputs = np.concatenate(parts)
        self._finite &= bool(np.isfinite(outputs).all())
        return outputs

    def _link_of(self, served: NDArray[np.float64], outputs: Outputs) -> Link:
        """What the served outputs are: as declared, as the last layer tells, or as they look."""
        declared, known = _LINKS.get(outputs), self._served.link
        if declared == "logit" and known == "probability":
            raise InvalidInputError(
                "`outputs` must be 'probabilities' for a model that ends in a softmax or sigmoid, "
                "but got 'logits'"
            )
        looks: Link = "probability" if _look_like_probabilities(served) else "logit"
        if declared == "probability" and "probability" not in (known, looks):
            raise InvalidInputError(
                f"`outputs` must be 'logits' where values leave [0, 1] or rows do not sum to 1, "
                f"but got 'probabilities' for values in [{served.min():g}, {served.max():g}]"
            )
        return declared or known or looks

    def _is_guess(self, served: NDArray[np.float64], outputs: Outputs) -> bool:
        """Whether the values alone decided between one logit and one probability."""
        unknown = outputs == "auto" and self._served.link is None
        return unknown and served.shape[1] == 1 and _look_like_probabilities(served)

    def _logits_to_attack(
        self, served: NDArray[np.float64], batch_size: int
    ) -> NDArray[np.float64]:
        """Of the surrogate, unless it contradicts the model as it is served."""
        if self._surrogate is not self._served:
            outputs = self._forward(self._surrogate, self.x, batch_size)
            logits = _as_logits(outputs, "logit")
            if np.array_equal(logits.argmax(1), _predicted(served, self._link)):
                return logits
            self._surrogate = self._served
        return _as_logits(served, self._link)

    def _unsteadiness(self, batch_size: int) -> str | None:
        """How the outputs change by themselves: a second pass, in another order and batch size."""
        n = len(self.x)
        order = np.random.default_rng(0).permutation(n)
        pieces = -(-n // batch_size) + 1
        size = min(n, max(2, -(-n // pieces)))  # a batch of one is another matter to some layers
        rows = np.repeat(order, 2) if n == 2 else np.resize(order, -(-n // size) * size)
        again = np.empty_like(self._served_clean)
        again[rows] = self._forward(self._served, self.x[rows], size)
        if _equal(again, self._served_clean):
            return None
        same = self._forward(self._served, self.x, batch_size)
        if not _equal(same, self._served_clean):
            random = "the model is not deterministic in evaluation mode"
            return random if self._draws == 1 else None
        return (
            "the outputs for a sample depend on the other samples of its batch, or on their order; "
            "normalise by statistics of the training data"
        )

    def _is_right(self, outputs: NDArray[np.float64], own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        found = np.take_along_axis(own, _predicted(outputs, self._link)[:, None], axis=1)[:, 0]
        return np.asarray(found & np.isfinite(outputs).all(axis=1))


def check_outputs(outputs: Outputs) -> Outputs:
    """Return `outputs`; raise `InvalidInputError` unless it is one of the three names."""
    if outputs not in get_args(Outputs):
        raise InvalidInputError(
            f"`outputs` must be one of {get_args(Outputs)}, but got {outputs!r}"
        )
    return outputs


def batches(rows: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """Split row numbers [N] into consecutive pieces of at most `size`."""
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _check_no_labels(outputs: NDArray[np.float64]) -> None:
    """Refuse single outputs [N, 1] that name a class, of which no attack can learn."""
    if outputs.shape[1] == 1 and (outputs > 1).any() and (outputs == np.round(outputs)).all():
        raise UnsupportedModelError(
            "the model must return class scores [B, C], but returned a whole number for each "
            "sample, as if they were labels; return the scores whose argmax they are"
        )


def _predicted(outputs: NDArray[np.float64], link: Link) -> NDArray[np.intp]:
    """The class [N] that outputs [N, C] stand for; a single output speaks for class 1."""
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > (0.5 if link == "probability" else 0.0)).astype(np.intp)
    return np.asarray(outputs.argmax(axis=1))


def _as_logits(outputs: NDArray[np.float64], link: Link) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 is meant to be -inf
        return np.asarray(as_logits(outputs, link, np))


def _look_like_probabilities(outputs: NDArray[np.float64]) -> bool:
    """Whether the rows of outputs [N, C] that are finite are probabilities, by their values."""
    outputs = outputs[np.isfinite(outputs).all(axis=1)]
    within = len(outputs) > 0 and bool(((outputs >= 0) & (outputs <= 1)).all())
    sums = np.abs(outputs.sum(axis=1) - 1) <= _ROUNDING
    return within and (outputs.shape[1] == 1 or bool(sums.all()))


def _saturate(outputs: NDArray[np.float64]) -> bool:
    """Whether a sample's second largest probability is lost, and with it the way to its class."""
    if outputs.shape[1] == 1:
        return bool(np.isin(outputs, (0.0, 1.0)).any())
    return bool((np.sort(outputs, axis=1)[:, -2] == 0).any())


def _equal(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether outputs are the same but for rounding."""
    finite = b[np.isfinite(b)]
    spread = _ROUNDING * float(finite.std()) if finite.size else 0.0
    return np.allclose(a, b, rtol=_ROUNDING, atol=spread, equal_nan=True)
