"""Studies that searches of other libraries made: they are looked at like any other."""

import math

import optuna
import pytest

import rlhf_tune
from rlhf_tune.plot import plot_study

pytestmark = pytest.mark.slow  # these libraries take seconds to import


def looks(study: optuna.Study, names: set[str]) -> None:
    assert rlhf_tune.recommend(study).keys() == names
    assert len(rlhf_tune.explain(study)) > 10
    assert rlhf_tune.risk(study).observed == 0
    pytest.importorskip("matplotlib")
    assert plot_study(study).axes


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.filterwarnings("ignore:`optuna.terminator` module:FutureWarning")  # it reports there
def test_of_optuna_search_cv() -> None:
    integration = pytest.importorskip("optuna_integration")
    linear_model = pytest.importorskip("sklearn.linear_model")
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_iris(return_X_y=True)
    search = integration.OptunaSearchCV(
        linear_model.LogisticRegression(max_iter=500),
        {
            "C": optuna.distributions.FloatDistribution(1e-3, 1e3, log=True),
            "tol": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
        },
        n_trials=6,
        random_state=0,
    )
    search.fit(x, y)
    looks(search.study_, {"C", "tol"})
    assert rlhf_tune.recommend(search.study_) in [t.params for t in search.study_.trials]


def test_of_ray(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Ray's search proposes without a cluster; its study is the library's own."""
    optuna_search = pytest.importorskip("ray.tune.search.optuna")
    tune = pytest.importorskip("ray.tune")
    space = {"lr": tune.loguniform(1e-5, 1e-1), "batch_size": tune.choice([16, 32, 64])}
    search = optuna_search.OptunaSearch(space, metric="loss", mode="min", seed=0)
    for number in range(6):
        params = search.suggest(str(number))
        loss = (math.log10(params["lr"]) + 3) ** 2
        search.on_trial_complete(str(number), {"loss": loss, "training_iteration": 1})
    looks(search._ot_study, {"lr", "batch_size"})
