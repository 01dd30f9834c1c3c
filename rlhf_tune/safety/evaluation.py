"""A classifier together with the samples it is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.frameworks import Classifier, Link, Loss
from rlhf_tune.safety.logits import as_logits

BATCH = 256

Outputs = Literal["auto", "logits", "probabilities"]
"""What a model's outputs are, where its user says so."""

_LINKS: dict[Outputs, Link] = {"logits": "logit", "probabilities": "probability"}

_ROW_SUM_TOLERANCE = 1e-3  # of probabilities, wide enough for half precision


@final
class Evaluation:
    """What a measurement sees of a model: its logits on the samples, and gradient signs.

    The clean samples pass the model once, here. Their outputs also tell whether outputs are
    probabilities, where the model's last layer does not.

    Attributes:
        x: Inputs [N, ...].
        own: Mask [N, C] of each sample's true class.
        logits: Clean logits [N, C], C >= 2.
        right: Mask [N] of the samples that the model gets right.
    """

    def __init__(
        self,
        classifier: Classifier,
        x: NDArray[Any],
        y: NDArray[np.int64],
        batch_size: int = BATCH,
        *,
        outputs: Outputs = "auto",
    ) -> None:
        self._classifier = classifier
        self._finite = True
        self.x = x
        self._outputs = self._forward(x, batch_size)
        self._link = classifier.link or _LINKS.get(outputs) or _link_of(self._outputs)
        self.logits = self._as_logits(self._outputs)
        classes = self.logits.shape[1]
        if y.max() >= classes:
            raise InvalidInputError(
                f"labels must be below the model's {classes} classes, but `y` has {y.max()}"
            )
        self.own = y[:, None] == np.arange(classes)
        self.right = self._is_right(self._outputs, self.own)

    def stays_right(self, moved: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Mask [B] of the samples `rows` that the model gets right at `moved` [B, ...]."""
        return self._is_right(self._forward(moved, len(moved)), self.own[rows])

    def logits_at(self, moved: NDArray[Any]) -> NDArray[np.float64]:
        """Logits [B, C] of other inputs [B, ...]."""
        return self._as_logits(self._forward(moved, len(moved)))

    def direction(self, at: NDArray[Any], rows: NDArray[np.intp], loss: Loss) -> NDArray[Any]:
        """Sign of the loss gradient [B, ...] of the samples `rows` at `at`; 0 where undefined."""
        signs = self._classifier.direction(at, self.own[rows], loss=loss, link=self._link)
        return np.asarray(np.nan_to_num(signs, nan=0.0))

    def repeats(self) -> bool:
        """Whether a second pass of the clean samples gives the same outputs, up to rounding."""
        again = self._forward(self.x, BATCH)
        finite = self._outputs[np.isfinite(self._outputs)]
        rounding = 1e-3 * float(finite.std()) if finite.size else 0.0
        return np.allclose(again, self._outputs, rtol=1e-3, atol=rounding, equal_nan=True)

    @property
    def doubts(self) -> list[str]:
        """Why the outputs seen so far cannot be trusted, one sentence each."""
        doubts = [] if self._finite else ["the model's outputs are not finite"]
        if self._link == "probability" and np.isin(self._outputs, (0.0, 1.0)).any():
            doubts.append(
                "the probabilities saturate at exactly 0 or 1 and no logits can be recovered; "
                "let the model return logits, or end in a softmax layer of its own"
            )
        return doubts

    def _forward(self, x: NDArray[Any], batch_size: int) -> NDArray[np.float64]:
        floats = np.result_type(x.dtype, np.float32)
        parts = [
            self._classifier.outputs(x[rows].astype(floats, copy=False))
            for rows in batches(np.arange(len(x)), batch_size)
        ]
        outputs = np.concatenate(parts)
        self._finite &= bool(np.isfinite(outputs).all())
        return outputs

    def _as_logits(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):  # log 0 is meant to be -inf
            return np.asarray(as_logits(outputs, self._link, np))

    def _is_right(self, outputs: NDArray[np.float64], own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        top = self._as_logits(outputs).argmax(axis=1)
        found = np.take_along_axis(own, top[:, None], axis=1)[:, 0]
        return np.asarray(found & np.isfinite(outputs).all(axis=1))


def batches(rows: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """Split row numbers [N] into consecutive pieces of at most `size`."""
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _link_of(outputs: NDArray[np.float64]) -> Link:
    """Whether outputs [N, C] of an unknown last layer are probabilities."""
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    single = outputs.shape[1] == 1
    sums = np.abs(outputs.sum(axis=1) - 1) <= _ROW_SUM_TOLERANCE
    return "probability" if within and (single or bool(sums.all())) else "logit"
