"""The adapter of scikit-learn keeps the contract of trainers, and says what it refuses."""

import numpy as np
import pytest

from rlhf_tune.errors import DivergedError, InvalidInputError
from rlhf_tune.testing import Fitted, TrainerContract

pytest.importorskip("sklearn")

from scipy.sparse import csr_matrix
from sklearn.linear_model import LinearRegression, SGDClassifier, SGDOneClassSVM, SGDRegressor
from sklearn.metrics import hinge_loss, log_loss, mean_squared_error
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor

from rlhf_tune_integrations.sklearn import SklearnTrainer, fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(110, 6))
LABELS = np.where(X[:, 0] + 0.3 * RNG.normal(size=110) > 0, "yes", "no")
TARGETS = X @ np.arange(6) + 0.1 * RNG.normal(size=110)
N = 55


def linear(kind=SGDClassifier, **arguments):
    rate = {"learning_rate": "constant", "eta0": 1e-3}
    return kind(**{**rate, "random_state": 0, **arguments})


def halves(estimator):
    y = LABELS if hasattr(estimator, "classes_") or "Classifier" in repr(estimator) else TARGETS
    return (X[:N], y[:N]), (X[N:], y[N:])


class TestLogisticRegression(TrainerContract):
    def estimator(self):
        return linear(loss="log_loss")

    def make(self):
        estimator = self.estimator()
        train, validation = halves(estimator)
        return SklearnTrainer(estimator, *train, validation, batch_size=8, seed=0)

    def state(self, trainer):
        arrays = {"stream": np.random.get_state()[1]}  # noqa: NPY002
        for name, value in vars(trainer.model).items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
                arrays[name] = value
            elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
                arrays |= {f"{name}.{i}": each for i, each in enumerate(value)}
            elif name == "_optimizer":
                arrays |= {f"adam.{i}": m for i, m in enumerate(getattr(value, "ms", []))}
            elif isinstance(value, int | float) and name.endswith("_"):
                arrays[name] = value
        return arrays

    def watched(self):
        estimator = self.estimator()
        train, validation = halves(estimator)
        rows = Rows(train[0])
        trainer = SklearnTrainer(estimator, rows, train[1], validation, seed=0)
        rows.read()  # for the first weights
        return trainer, rows.read

    def fitted(self, steps, **driving):
        estimator = self.estimator()
        train, validation = halves(estimator)
        driving = {"batch_size": 8, "seed": 0, "verbose": 0, "steps": steps, **driving}
        rows = Rows(train[0])
        history = fit(estimator, rows, train[1], validation_data=validation, **driving)
        return Fitted(history, rows.batches - 1, loss_of(estimator, *validation))

    def scheduled(self):
        def begin():
            estimator = self.estimator().set_params(learning_rate="invscaling")
            train, validation = halves(estimator)
            fit(estimator, *train, validation_data=validation, epochs=1)

        return begin


class TestSVM(TestLogisticRegression):
    def estimator(self):
        return linear(loss="hinge")


class TestLinearRegression(TestLogisticRegression):
    def estimator(self):
        return linear(SGDRegressor)


class TestMLPClassifier(TestLogisticRegression):
    def estimator(self):
        return MLPClassifier((8,), random_state=0)


class TestMLPRegressor(TestLogisticRegression):
    def estimator(self):
        return MLPRegressor(
            hidden_layer_sizes=(8,), random_state=0, solver="sgd", learning_rate_init=1e-3
        )


class Rows:
    """Samples that write down who was asked for."""

    def __init__(self, x):
        self.x, self.asked, self.batches = x, [], 0

    def __getitem__(self, rows):
        self.asked, self.batches = self.asked + rows.tolist(), self.batches + 1
        return self.x[rows]

    def read(self):
        asked, self.asked = self.asked, []
        return asked


def loss_of(estimator, x, y):
    if y.dtype.kind == "f":
        return mean_squared_error(y, estimator.predict(x))
    if hasattr(estimator, "predict_proba"):
        return log_loss(y, estimator.predict_proba(x))
    return hinge_loss(y, estimator.decision_function(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: linear(loss="log_loss"),
        lambda: linear(loss="hinge"),
        lambda: linear(loss="modified_huber", average=True),
        lambda: MLPClassifier((8,), random_state=0),
    ],
)
def test_classifiers_learn(make):
    estimator = make()
    train, validation = halves(estimator)
    data = {"validation_data": validation, "epochs": 20, "batch_size": 8}
    fit(estimator, *train, **data, seed=0, verbose=0)
    assert estimator.score(*validation) > 0.75


def test_linear_regression_finds_the_least_squares():
    (x, y), validation = (X[:N], TARGETS[:N]), (X[N:], TARGETS[N:])
    estimator = linear(SGDRegressor, alpha=0.0)
    fit(estimator, x, y, validation_data=validation, epochs=40, seed=0, verbose=0)
    exact = LinearRegression().fit(x, y)
    assert estimator.coef_ == pytest.approx(exact.coef_, abs=0.05)


def test_a_step_of_a_network_is_one_step_of_its_optimizer_at_any_batch_size():
    estimator = MLPClassifier((4,), random_state=0, batch_size=7)
    x = np.repeat(X, 5, axis=0)
    y = np.repeat(LABELS, 5)
    trainer = SklearnTrainer(estimator, x, y, (X, LABELS), batch_size=300, seed=0)
    trainer.train(2)
    assert estimator._optimizer.t == 2
    assert estimator.batch_size == 7


def test_before_training_nothing_is_learned():
    estimator = linear(loss="log_loss")
    train, validation = halves(estimator)
    trainer = SklearnTrainer(estimator, *train, validation)
    assert not estimator.coef_.any()
    assert trainer.evaluate()["val_loss"] == pytest.approx(np.log(2))
    fresh = MLPClassifier((8,), random_state=0)
    trainer = SklearnTrainer(fresh, *train, validation, batch_size=N)
    start = [w.copy() for w in fresh.coefs_]
    other = MLPClassifier((8,), random_state=0, learning_rate_init=1e-9, batch_size=N)
    other.partial_fit(*train, classes=["no", "yes"])
    for a, b in zip(start, other.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_sparse_samples_and_data_frames_are_taken():
    pandas = pytest.importorskip("pandas")
    for made in (csr_matrix, pandas.DataFrame):
        estimator = linear(loss="log_loss")
        data = {"validation_data": (made(X[N:]), LABELS[N:]), "epochs": 4, "verbose": 0}
        history = fit(estimator, made(X[:N]), LABELS[:N], seed=0, **data)
        assert history.history["val_accuracy"][-1] > 0.8


def test_a_fitted_estimator_goes_on_and_gently():
    train, validation = halves(linear())
    estimator = linear(loss="log_loss").fit(*train)
    before = loss_of(estimator, *validation)
    history = fit(estimator, *train, validation_data=validation, epochs=20, seed=0, verbose=0)
    assert history.range_test[0].learning_rate == pytest.approx(1e-3)
    assert loss_of(estimator, *validation) <= before


@pytest.mark.parametrize(
    "make",
    [
        lambda: linear(loss="hinge", eta0=1e308),
        lambda: MLPClassifier((8,), random_state=0, solver="sgd", learning_rate_init=1e300),
    ],
)
def test_training_that_diverges_says_so(make):
    estimator = make()
    train, validation = halves(estimator)
    with pytest.raises(DivergedError, match="diverged at learning rate"):
        fit(estimator, *train, validation_data=validation, epochs=2, policy="constant", verbose=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (GaussianNB, "must have partial_fit and a learning rate, but GaussianNB has not"),
        (lambda: MLPClassifier(solver="lbfgs"), "solver 'sgd' or 'adam'"),
        (SGDClassifier, "must have one owner, but SGDClassifier has learning_rate='optimal'"),
        (lambda: linear(early_stopping=True), "must not stop by itself"),
        (lambda: linear(eta0=0.0), "eta0 > 0 must hold"),
        (lambda: linear(class_weight="balanced"), "partial_fit cannot balance classes"),
        (lambda: linear(SGDOneClassSVM), "SGDOneClassSVM is neither"),
    ],
)
def test_what_cannot_be_driven_is_refused(make, words):
    train, validation = halves(linear())
    with pytest.raises(InvalidInputError, match=words):
        fit(make(), *train, validation_data=validation, epochs=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (np.where(x > 2, np.nan, x), y), "X and y must be .* contains NaN"),
        (lambda x, y: (x, y[:-1]), "inconsistent numbers of samples"),
        (lambda x, y: (x[:0], y[:0]), "0 sample"),
        (lambda x, y: (x[y == "no"], y[y == "no"]), "1 of theirs are not among the labels"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(change, words):
    (x, y), validation = halves(linear())
    with pytest.raises(InvalidInputError, match=words):
        fit(linear(), *change(x, y), validation_data=validation, epochs=1)


def test_lists_and_a_column_of_targets_are_taken():
    (x, y), (vx, vy) = (X[:N], TARGETS[:N]), (X[N:], TARGETS[N:])
    told = {"epochs": 2, "seed": 0, "verbose": 0}
    plain = fit(linear(SGDRegressor), x, y, validation_data=(vx, vy), **told)
    lists = fit(linear(SGDRegressor), x.tolist(), y, validation_data=(vx.tolist(), vy), **told)
    column = fit(linear(SGDRegressor), x, y[:, None], validation_data=(vx, vy[:, None]), **told)
    assert plain.history == lists.history == column.history
