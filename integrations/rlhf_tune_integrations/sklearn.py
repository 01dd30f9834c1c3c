"""Adapter of scikit-learn: `fit` for estimators with `partial_fit` and a learning rate.

`SGDClassifier` (logistic regression, SVM), `SGDRegressor` (linear regression), `MLPClassifier`,
`MLPRegressor` and their kin. A step is `partial_fit` on one batch: for the networks one step of
their optimizer, for the linear models one step a sample.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack, final

import numpy as np
from scipy.sparse import issparse

from rlhf_tune.errors import InvalidInputError, require
from rlhf_tune.run.driver import budget
from rlhf_tune.run.driving import Driving, Keywords
from rlhf_tune.run.history import History
from rlhf_tune.run.schedules import ADAPTIVE, SGD
from rlhf_tune.run.trainer import Metrics
from rlhf_tune.streams import restore_streams, streams

_sklearn: Any = require("sklearn", extra="sklearn")
_base: Any = require("sklearn.base", extra="sklearn")
_checks: Any = require("sklearn.utils.validation", extra="sklearn")
_metrics: Any = require("sklearn.metrics", extra="sklearn")

_RATES = ("eta0", "learning_rate_init")
_DIVERGED = ("overflow", "non-finite parameter weights")  # in messages of scikit-learn
_NOTHING = 1e-300  # a rate at which no weight changes


def fit(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    validation_data: tuple[Any, Any],
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    seed: int | None = None,
    **driving: Unpack[Keywords],
) -> History:
    """Train an estimator in place while a policy moves its learning rate, verified or rolled back.

    Args:
        estimator: With `partial_fit` and learning_rate="constant"; one that is fitted goes on.
        X: Samples [N, ...], an array, a sparse matrix or a data frame.
        y: Targets [N].
        validation_data: A pair (X, y) by which states are judged: "val_loss" (logarithmic where
            there are probabilities, else hinge; squared error of regressors) and, of classifiers,
            "val_accuracy".
        epochs: The budget in passes over the data.
        steps: The budget in batches, in place of `epochs`.
        batch_size: To begin with.
        seed: Of the order of the data; that of the estimator is its `random_state`.
        driving: The fields of `rlhf_tune.run.driving.Driving`, such as `constraints`.

    Raises:
        InvalidInputError: If something is given that cannot be driven.
        CannotCertify: If no state satisfied the constraints; `best` is the estimator.
    """
    chosen = Driving(**driving)
    trainer = SklearnTrainer(estimator, X, y, validation_data, batch_size=batch_size, seed=seed)
    total = budget(epochs, steps, trainer.steps_per_epoch)
    return chosen.drive(trainer, epochs=total, usual_rate=trainer.usual_rate)


@dataclass(frozen=True)
class Snapshot:
    """A state: of the estimator, the place in the data, and the streams.

    Attributes:
        estimator: Its attributes.
        place: Epoch, samples used of it, batch size.
        streams: The random streams.
    """

    estimator: dict[str, Any]
    place: tuple[int, int, int]
    streams: dict[str, Any]


@final
class SklearnTrainer:
    """Trains an estimator in stretches; the order of the data is its own."""

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        validation_data: tuple[Any, Any],
        *,
        batch_size: int = 32,
        seed: int | None = None,
    ) -> None:
        """Prepare training; an estimator that is not fitted gets its first weights.

        Args: see `fit`.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self._rate = _check(estimator)
        self.model = estimator
        self._x, self._y = _data("X and y", X, y)
        self._validation = _data("validation_data", *validation_data)
        self._classes = np.unique(self._y) if _base.is_classifier(estimator) else None
        known = self._validation[1] if self._classes is None else self._classes
        unknown = np.setdiff1d(self._validation[1], known)
        if len(unknown):
            raise InvalidInputError(
                f"the validation data must have no class that is not trained on, but {len(unknown)}"
                f" of theirs are not among the labels, such as {unknown[0]!r}; divide the data by "
                f"class (stratify=y)"
            )
        self._seed = int(np.random.default_rng(seed).integers(2**31))
        self._batch = self._checked(batch_size)
        self._epoch, self._used = 0, 0
        self._order: tuple[int, Any] = (-1, None)  # of which epoch, and what it is
        self.trained = hasattr(estimator, "coef_") or hasattr(estimator, "coefs_")
        if not self.trained:
            self._initialise()

    @property
    def usual_rate(self) -> float:
        """The default rate of its kind."""
        adam = self._network and self.model.solver == "adam"
        return ADAPTIVE if adam else SGD

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The rate, and the batch size."""
        return {"learning_rate": getattr(self.model, self._rate), "batch_size": self._batch}

    @property
    def steps_per_epoch(self) -> int:
        """The batches of a pass."""
        return math.ceil(len(self._y) / self._batch)

    def set(self, **hyperparameters: float) -> None:
        """Change the rate or the batch size; see `Trainer.set`."""
        unknown = sorted(hyperparameters.keys() - self.hyperparameters.keys())
        if unknown:
            raise InvalidInputError(f"learning_rate and batch_size can be set, but got {unknown}")
        size = self._checked(hyperparameters.get("batch_size", self._batch))
        rate = hyperparameters.get("learning_rate", 1.0)
        if not 0 < rate < math.inf:
            raise InvalidInputError(f"a learning rate must be above 0 and finite, but got {rate}")
        self._batch = size
        if "learning_rate" in hyperparameters:
            self._set_rate(float(rate))

    def train(self, steps: int) -> Metrics:
        """Take steps; see `Trainer.train`."""
        losses: list[float] = []
        sizes: list[int] = []
        while len(losses) < steps and math.isfinite(sum(losses)):
            rows = self._next_rows()
            x, y = _rows(self._x, rows), self._y[rows]
            losses.append(self._loss(x, y))
            sizes.append(len(rows))
            self._step(x, y)
        with np.errstate(invalid="ignore", over="ignore"):
            mean, spread = float(np.average(losses, weights=sizes)), float(np.std(losses))
        return {"steps": len(losses), "loss": mean, "spread": spread}

    def evaluate(self) -> Metrics:
        """Metrics on the validation data; see `Trainer.evaluate`."""
        x, y = self._validation
        loss = self._loss(x, y)
        if self._classes is None:
            return {"val_loss": loss}
        return {"val_loss": loss, "val_accuracy": float((self.model.predict(x) == y).mean())}

    @property
    def finite(self) -> bool:
        """Whether all weights are."""
        weights = self.model.coefs_ if self._network else [self.model.coef_]
        return all(bool(np.isfinite(each).all()) for each in weights)

    def knowledge(self) -> float:
        """0 where the estimator was fitted before, NaN where it was not."""
        return 0.0 if self.trained else math.nan

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """Everything that training changes; see `Trainer.snapshot`."""
        place = (self._epoch, self._used, self._batch)
        return Snapshot(copy.deepcopy(vars(self.model)), place, streams())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; the estimator stays the same object."""
        kept = vars(self.model)
        kept.clear()
        kept.update(copy.deepcopy(snapshot.estimator))
        self._epoch, self._used, self._batch = snapshot.place
        restore_streams(snapshot.streams)

    @property
    def _network(self) -> bool:
        return self._rate == "learning_rate_init"

    def _checked(self, size: float) -> int:
        if not size >= 1 or int(size) != size:
            raise InvalidInputError(f"batch_size must be a whole number >= 1, but got {size}")
        return int(size)

    def _initialise(self) -> None:
        """Give it weights without training: those of a step that changes nothing."""
        rate = getattr(self.model, self._rate)
        setattr(self.model, self._rate, _NOTHING)
        kept = streams()
        self._step(
            _rows(self._x, np.arange(min(self._batch, len(self._y)))), self._y[: self._batch]
        )
        restore_streams(kept)
        setattr(self.model, self._rate, rate)
        if self._network:
            del self.model._optimizer  # made anew at the next step, with the rate then in effect
        else:
            self.model.coef_.fill(0.0)
            self.model.intercept_.fill(0.0)
            self.model.t_ = 1.0

    def _set_rate(self, rate: float) -> None:
        setattr(self.model, self._rate, rate)
        optimizer = getattr(self.model, "_optimizer", None)
        if optimizer is not None:  # it has its own copy, of the first step's
            optimizer.learning_rate_init = optimizer.learning_rate = rate

    def _next_rows(self) -> Any:
        """The samples of the next batch: every one once an epoch, at every batch size."""
        if self._order[0] != self._epoch:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._y))
            self._order = self._epoch, order
        rows = self._order[1][self._used : self._used + self._batch]
        self._used += len(rows)
        if self._used >= len(self._y):
            self._epoch, self._used = self._epoch + 1, 0
        return rows

    def _step(self, x: Any, y: Any) -> None:
        told = {} if self._classes is None else {"classes": self._classes}
        size = getattr(self.model, "batch_size", None)
        if self._network:
            self.model.batch_size = len(y)  # else large batches are several steps
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # of a divergence, which is told
            try:
                self.model.partial_fit(x, y, **told)
            except ValueError as exc:
                if not any(words in str(exc) for words in _DIVERGED):
                    raise
                self._spoil()  # it refuses to diverge, and is left as after a divergence
            finally:
                if self._network:
                    self.model.batch_size = size

    def _spoil(self) -> None:
        for weights in self.model.coefs_ if self._network else [self.model.coef_]:
            weights.fill(np.nan)

    def _loss(self, x: Any, y: Any) -> float:
        """Before a step; infinite where weights or outputs are not finite."""
        if not self.finite:
            return math.inf
        model = self.model
        kinds = ("predict",) if self._classes is None else ("predict_proba", "decision_function")
        kind = next(each for each in kinds if hasattr(model, each))
        with np.errstate(all="ignore"):
            outputs = np.asarray(getattr(model, kind)(x))
            if not np.isfinite(outputs).all():
                return math.inf
            if kind == "predict":
                return float(np.mean((outputs - y) ** 2))
            loss = _metrics.log_loss if kind == "predict_proba" else _metrics.hinge_loss
            return float(loss(y, outputs, labels=self._classes))


def _check(estimator: Any) -> str:
    """The name of its rate.

    Raises:
        InvalidInputError: If it has none that can be moved.
    """
    name = type(estimator).__name__
    rate = next((each for each in _RATES if hasattr(estimator, each)), None)
    if rate is None or not hasattr(estimator, "partial_fit"):
        raise InvalidInputError(
            f"an estimator must have partial_fit and a learning rate, but {name} has not; take "
            f"SGDClassifier, SGDRegressor, MLPClassifier or MLPRegressor (solver 'sgd' or 'adam')"
        )
    if not (_base.is_classifier(estimator) or _base.is_regressor(estimator)):
        raise InvalidInputError(
            f"states are judged by targets, so an estimator must be a classifier or a regressor, "
            f"but {name} is neither"
        )
    if getattr(estimator, "class_weight", None) == "balanced":
        raise InvalidInputError(
            f"partial_fit cannot balance classes, but {name} has class_weight='balanced'; give it "
            f"the weights: dict(zip(np.unique(y), compute_class_weight('balanced', "
            f"classes=np.unique(y), y=y)))"
        )
    if getattr(estimator, "learning_rate", "constant") != "constant":
        raise InvalidInputError(
            f"the learning rate must have one owner, but {name} has learning_rate="
            f"{estimator.learning_rate!r}; say learning_rate='constant', {rate}=0.01: the policy "
            f"warms up and decays the rate by itself"
        )
    if getattr(estimator, "early_stopping", False):
        raise InvalidInputError(
            f"{name} must not stop by itself, but has early_stopping=True; leave it out: the best "
            f"state is handed back"
        )
    if not getattr(estimator, rate) > 0:
        raise InvalidInputError(
            f"{rate} > 0 must hold, but got {rate}={getattr(estimator, rate)}; say {rate}=0.01"
        )
    return rate


def _data(name: str, x: Any, y: Any) -> tuple[Any, Any]:
    """Samples and targets as they are used; a single column of targets is one of numbers.

    Raises:
        InvalidInputError: If an estimator would not take them.
    """
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if not isinstance(x, list | np.ndarray) and not issparse(x) and not hasattr(x, "iloc"):
        return x, y  # whatever gives its rows
    try:
        checked = _checks.check_array(x, accept_sparse=True)
        _checks.check_consistent_length(checked, y)
    except ValueError as exc:
        raise InvalidInputError(f"{name} must be what scikit-learn takes, but: {exc}") from None
    return (checked if isinstance(x, list) else x), y


def _rows(x: Any, rows: Any) -> Any:
    return x.iloc[rows] if hasattr(x, "iloc") else x[rows]
