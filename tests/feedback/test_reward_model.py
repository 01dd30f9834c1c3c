"""The reward model beside an oracle that knows the true utility."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback import RewardModel

WEIGHTS = np.array([2.0, -1.0, 1.0, 0.5, -0.5])


def straight(x: np.ndarray) -> np.ndarray:
    return x @ WEIGHTS


def bent(x: np.ndarray) -> np.ndarray:
    """Enough is enough of the first, too little of the second hurts, and two go together."""
    both = x[:, 3] * x[:, 4]
    return (
        2 * np.minimum(x[:, 0], 0) + 1.5 * np.tanh(3 * x[:, 1]) - 2 * np.maximum(x[:, 2], 0) + both
    )


def answered(utility, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in the order of noisy answers."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, 5))
    first = rng.random(n) < 1 / (1 + np.exp(utility(b) - utility(a)))
    return np.where(first[:, None], a, b), np.where(first[:, None], b, a)


@pytest.mark.parametrize(("utility", "members"), [(straight, 0), (straight, 5), (bent, 5)])
def test_1500_noisy_pairs_teach_nearly_what_an_oracle_knows(utility, members: int) -> None:
    model = RewardModel(seed=0, members=members).fit(*answered(utility, 1500, seed=1))
    preferred, rejected = answered(utility, 4000, seed=2)
    oracle = (utility(preferred) > utility(rejected)).mean()
    score = model.score(preferred, rejected)
    p = model.probability(preferred, rejected)
    certain = np.maximum(p, 1 - p) > 0.95
    assert score.accuracy > oracle - 0.03
    assert score.calibration_error < 0.08
    assert certain.mean() > 0.05
    assert (p[certain] > 0.5).mean() > 0.93


def test_a_linear_model_cannot_see_what_the_ensemble_sees() -> None:
    pairs, held_out = answered(bent, 1500, seed=1), answered(bent, 4000, seed=2)
    linear, ensemble = (RewardModel(members=m).fit(*pairs).score(*held_out) for m in (0, 5))
    assert ensemble.accuracy > linear.accuracy + 0.03
    assert ensemble.log_loss < linear.log_loss


def test_deviations_say_how_far_off_a_few_answers_leave_it() -> None:
    """Of the true differences about two thirds lie within a deviation of the predicted ones."""
    inside = []
    for seed in range(20):
        model = RewardModel().fit(*answered(straight, 60, seed))
        a, b = np.random.default_rng(100 + seed).normal(size=(2, 100, 5))
        mean, deviation = model.difference(a, b)
        inside.append(np.abs(mean - (straight(a) - straight(b))) < deviation)
    assert 0.5 < np.mean(inside) < 0.85


def test_it_is_less_sure_far_from_what_it_saw_and_more_with_more_answers() -> None:
    few, many = (RewardModel().fit(*answered(straight, n, 0)) for n in (20, 500))
    near, far = np.full((1, 5), 0.1), np.full((1, 5), 5.0)
    assert few.predict(far)[1] > few.predict(near)[1]
    assert few.predict(far)[1] > 3 * many.predict(far)[1]


def test_a_sure_pair_has_a_probability_near_one() -> None:
    """A head that ends in a sigmoid stops at .731."""
    model = RewardModel().fit(*answered(lambda x: 5 * straight(x), 1500, 0))
    assert model.probability([[2, -2, 2, 2, -2]], [[-2, 2, -2, -2, 2]])[0] > 0.99


def test_ties_and_weights_count() -> None:
    a, b = answered(straight, 300, 0)
    tied = RewardModel().fit(a, b, answers=np.full(300, 0.5))
    assert np.abs(tied.predict(a)[0]).max() < 0.05
    rng = np.random.default_rng(1)
    coin = rng.random(300) < 0.5
    both = np.concatenate([a, np.where(coin[:, None], a, b)])
    other = np.concatenate([b, np.where(coin[:, None], b, a)])
    trusted = RewardModel().fit(both, other, weights=np.repeat([1.0, 0.0], 300))
    alone = RewardModel().fit(a, b, population=np.concatenate([both, other]))
    assert trusted.predict(a)[0] == pytest.approx(alone.predict(a)[0], abs=1e-6)


def test_units_do_not_matter() -> None:
    a, b = answered(straight, 200, 0)
    unit, shift = np.array([1e-3, 1e6, 1.0, 50.0, 1.0]), np.array([0.0, 1e7, -3.0, 0.0, 0.0])
    plain, scaled = RewardModel().fit(a, b), RewardModel().fit(a * unit + shift, b * unit + shift)
    assert scaled.predict(a * unit + shift)[0] == pytest.approx(plain.predict(a)[0], abs=1e-6)


def test_constant_outcomes_and_diverged_ones_do_no_harm() -> None:
    a, b = answered(straight, 200, 0)
    a[:, 4] = b[:, 4] = 3.0
    a[0, 1] = b[5, 1] = 1e12
    model = RewardModel().fit(a, b)
    assert np.isfinite(model.predict(a)[0]).all()
    preferred, rejected = answered(straight, 2000, 3)
    preferred[:, 4] = rejected[:, 4] = 3.0
    assert model.score(preferred, rejected).accuracy > 0.75


def test_contexts_share_what_they_agree_on() -> None:
    """On the edge the last outcome counts the other way round; each has only 60 answers."""
    edge = np.array([1, 1, 1, 1, -6.0])

    def utility(x: np.ndarray, use: np.ndarray) -> np.ndarray:
        return np.where(use, x @ (WEIGHTS * edge), x @ WEIGHTS)

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 160, 5))
    use = np.arange(160) % 2 == 0
    y = rng.random(160) < 1 / (1 + np.exp(utility(b, use) - utility(a, use)))
    names = np.where(use, "edge", "server").tolist()
    model = RewardModel(contexts=("edge", "server")).fit(a, b, answers=y, context=names)
    probe = np.random.default_rng(1).normal(size=(2, 1000, 5))
    for name, at in (("edge", True), ("server", False)):
        true = utility(probe[0], np.array(at)) > utility(probe[1], np.array(at))
        said = model.probability(*probe, context=name) > 0.5
        blind = RewardModel().fit(a, b, answers=y).probability(*probe) > 0.5
        assert (said == true).mean() > (blind == true).mean()
        assert (said == true).mean() > 0.85
    with pytest.raises(InvalidInputError, match="phone"):
        model.predict(probe[0], context="phone")


@pytest.mark.parametrize("annotators", [None, ["ada", "ben"] * 40])
def test_ratings_teach_whatever_the_scale_of_the_person(annotators: list[str] | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5))
    ratings = straight(x) + rng.normal(size=80) * 0.5
    if annotators:
        ratings = np.where(np.arange(80) % 2 == 0, ratings, 50 + 10 * ratings)
    model = RewardModel().fit_ratings(x, ratings, annotators=annotators)
    fresh = rng.normal(size=(200, 5))
    assert np.corrcoef(model.predict(fresh)[0], straight(fresh))[0, 1] > 0.95


def test_ratings_without_a_pair_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="two outcomes"):
        RewardModel().fit_ratings([[1.0], [2.0]], [1, 2], annotators=["ada", "ben"])


@pytest.mark.parametrize("members", [0, 3])
def test_an_explanation_adds_up_and_names_the_comparisons(members: int) -> None:
    names = ["accuracy", "seconds", "robust", "size", "gap"]
    a, b = answered(straight, 200, 0)
    model = RewardModel(names=names, members=members).fit(a, b)
    one, other = np.array([2.0, 0, 0, 0, 0]), np.array([-2.0, 0, 0, 0, 0.1])
    found = model.explain(one, other)
    mean, _ = model.difference([one], [other])
    assert sum(found.outcomes.values()) == pytest.approx(float(mean[0]), abs=0.05)
    assert next(iter(found.outcomes)) == "accuracy"
    assert found.probability == pytest.approx(float(model.probability([one], [other])[0]))
    row, added = found.comparisons[0]
    rest = np.arange(200) != row
    left_out = RewardModel(names=names, members=members).fit(
        a[rest], b[rest], population=np.concatenate([a, b])
    )
    lost = float((mean - left_out.difference([one], [other])[0])[0])
    assert abs(added) == max(abs(value) for _, value in found.comparisons)
    assert lost == pytest.approx(added, rel=0.5)


@pytest.mark.parametrize("members", [0, 3])
def test_a_saved_model_predicts_the_same(tmp_path: Path, members: int) -> None:
    a, b = answered(straight, 50, 0)
    options = {"names": list("abcde"), "contexts": ("edge",), "members": members}
    model = RewardModel(seed=3, **options).fit(a, b, context=["edge"] * 50)
    model.save(tmp_path / "model.json")
    loaded = RewardModel.load(tmp_path / "model.json")
    assert loaded.names == model.names
    for got, expected in zip(
        loaded.predict(a, context="edge"), model.predict(a, context="edge"), strict=True
    ):
        assert np.array_equal(got, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_a_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    for text in ("", "[]", json.dumps({"version": 1})):
        path.write_text(text)
        with pytest.raises(InvalidInputError, match=r"RewardModel.save"):
            RewardModel.load(path)
    with pytest.raises(InvalidInputError, match="FileNotFoundError"):
        RewardModel.load(tmp_path / "none.json")


def test_the_same_seed_gives_the_same_model() -> None:
    a, b = answered(bent, 100, 0)
    one, other = (RewardModel(seed=1, members=2).fit(a, b).predict(a)[0] for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, RewardModel(seed=2, members=2).fit(a, b).predict(a)[0])


def test_mistakes_are_told() -> None:
    with pytest.raises(InvalidInputError, match="fitted before"):
        RewardModel().predict([[1.0]])
    with pytest.raises(InvalidInputError, match="must be finite, but row 1"):
        RewardModel().fit([[1.0], [np.nan]], [[1.0], [2.0]])
    with pytest.raises(InvalidInputError, match="at least one outcome"):
        RewardModel().fit(np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(InvalidInputError, match="2 columns"):
        RewardModel(names=["a", "b"]).fit([[1.0]], [[2.0]])
    with pytest.raises(InvalidInputError, match=r"within \[0, 1\]"):
        RewardModel().fit([[1.0]], [[2.0]], answers=[2.0])
    with pytest.raises(InvalidInputError, match="all be different"):
        RewardModel(names=["a", "a"])
    with pytest.raises(InvalidInputError, match="members >= 0"):
        RewardModel(members=-1)
    with pytest.raises(InvalidInputError, match="the 1 columns"):
        RewardModel().fit([[1.0]], [[2.0]]).predict([[1.0, 2.0]])
    with pytest.raises(InvalidInputError, match="must be numbers"):
        RewardModel().fit([["good"]], [["bad"]])
