"""`rlhf_tune.recommend`, `explain`, `risk`: on any study, whoever sampled it."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler

import rlhf_tune
from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.errors import InvalidInputError
from tests.study.bowl import loss, objective, study, with_constraint
from tests.study.made_trials import study_of, trial


def sampled(objective_: object, n: int = 8, **more: object) -> optuna.Study:
    """A study of another sampler."""
    made = optuna.create_study(sampler=RandomSampler(seed=3), **more)
    made.optimize(objective_, n_trials=n, catch=ArithmeticError)
    return made


def test_a_loaded_study_says_what_its_own_sampler_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    own = DQNSampler(seed=1)
    s = optuna.create_study(study_name="s", storage=url, sampler=own)
    s.optimize(with_constraint, n_trials=8)
    loaded = optuna.load_study(study_name="s", storage=url)
    assert isinstance(loaded.sampler, TPESampler)
    assert rlhf_tune.recommend(loaded) == own.recommend(s) == rlhf_tune.recommend(s)
    assert rlhf_tune.explain(loaded, seed=1) == own.explain(s) == rlhf_tune.explain(s)
    np.testing.assert_array_equal(rlhf_tune.risk(loaded).p_safe, own.risk(s).p_safe)
    assert len(loaded.trials) == 8


def test_constraints_of_another_sampler_are_read() -> None:
    """As TPE has them by `constraints_func`: the luckiest trials are unsafe."""
    with pytest.warns(FutureWarning, match="constraints_func"):
        sampler = TPESampler(seed=0, constraints_func=lambda t: [t.params["lr"] - 3e-3])
    s = optuna.create_study(sampler=sampler)
    s.optimize(objective, n_trials=12)
    assert rlhf_tune.recommend(s)["lr"] <= 3e-3
    risk = rlhf_tune.risk(s)
    assert risk.observed == sum(t.params["lr"] > 3e-3 for t in s.trials[1:])
    assert all(0 <= move.p_safe <= 1 for move in rlhf_tune.explain(s))


def test_roles_and_policies_can_be_said() -> None:
    def named(t: optuna.Trial) -> float:
        return loss(t.suggest_float("alpha", 1e-5, 1e-1, log=True), 128)

    s = sampled(named)
    plain, told = rlhf_tune.explain(s), rlhf_tune.explain(s, roles={"alpha": "learning_rate"})
    assert [m.prior for m in plain] != [m.prior for m in told]
    assert len({round(m.prior, 9) for m in rlhf_tune.explain(s, policy="no_prior")}) == 1
    with pytest.raises(InvalidInputError, match="a role must be one of"):
        rlhf_tune.recommend(s, roles={"alpha": "rate"})


def test_without_constraints_nothing_is_risked() -> None:
    s = sampled(objective)
    assert rlhf_tune.risk(s).observed == 0
    assert "no risk was predicted" in str(rlhf_tune.risk(s))
    assert {m.p_safe for m in rlhf_tune.explain(s)} == {1.0}


def test_a_maximized_study_has_its_own_signs() -> None:
    s = sampled(lambda t: -objective(t), direction="maximize")
    mirrored = sampled(objective)
    assert rlhf_tune.recommend(s) == rlhf_tune.recommend(mirrored)
    for one, other in zip(rlhf_tune.explain(s), rlhf_tune.explain(mirrored), strict=True):
        assert one.mean == pytest.approx(-other.mean)
    found = DQNSampler(seed=0).recommendation(s)
    assert found.value == s.trials[found.number].value


def test_what_is_expected_is_in_the_units_of_the_objective() -> None:
    def thousandfold(t: optuna.Trial) -> float:
        return 1000 * objective(t) + 5000

    plain = DQNSampler(seed=0).recommendation(sampled(objective))
    scaled = DQNSampler(seed=0).recommendation(sampled(thousandfold))
    assert scaled.number == plain.number
    assert scaled.mean == pytest.approx(1000 * plain.mean + 5000, rel=1e-6)


def test_only_categories() -> None:
    s = sampled(lambda t: float(len(t.suggest_categorical("act", ["relu", "tanh!"]))))
    assert rlhf_tune.recommend(s) == {"act": "relu"}
    assert "act" in str(rlhf_tune.explain(s))


def test_conditional_parameters_without_a_common_one() -> None:
    def either(t: optuna.Trial) -> float:
        return t.suggest_float("a" if t.number % 2 else "b", 0, 1)

    s = sampled(either)
    assert rlhf_tune.recommend(s).keys() <= {"a", "b"}
    assert rlhf_tune.explain(s) == []
    assert "nothing to explain" in str(rlhf_tune.explain(s))


def test_all_failed() -> None:
    s = study_of(trial(None, 1e-3), trial(None, 1e-2))
    with pytest.raises(CannotCertify, match="at least one trial must be complete"):
        rlhf_tune.recommend(s)
    assert rlhf_tune.explain(s) == []
    assert rlhf_tune.risk(s).observed == 0


def test_an_empty_study() -> None:
    s = optuna.create_study()
    with pytest.raises(CannotCertify, match="run the study first"):
        rlhf_tune.recommend(s)
    assert rlhf_tune.explain(s) == []


@pytest.mark.parametrize("look", [rlhf_tune.recommend, rlhf_tune.explain, rlhf_tune.risk])
def test_what_is_no_study_of_one_objective_is_refused(look: object) -> None:
    with pytest.raises(InvalidInputError, match=r"must be an optuna\.Study, but got str"):
        look("sqlite:///study.db")
    several = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(InvalidInputError, match=r"one objective, but .* has 2"):
        look(several)


def test_a_recommendation_says_why_the_luckiest_was_not_taken() -> None:
    s = study()
    rng = np.random.default_rng(0)
    for lr in np.geomspace(1e-5, 1e-1, 33):
        noise = -1.2 if abs(math.log10(lr) + 4) < 0.05 else 0.05 * rng.normal()
        s.add_trial(trial(0.5 * abs(math.log10(lr) + 2) + noise, float(lr), 64))
    found = DQNSampler(seed=0).recommendation(s)
    assert found.luckiest == s.best_trial.number != found.number
    assert f"trial {found.luckiest} measured better, and is expected to be worse" in str(found)


def test_the_summary_counts_distinct_points() -> None:
    s = study_of(trial(1.0, 1e-3, x=-0.1), trial(1.1, 1e-3, x=0.1), trial(None, 1e-2))
    found = DQNSampler(seed=0).recommendation(s)
    assert found.number == 0
    assert str(found.summary) == ("3 trials at 2 distinct points; 1 feasible, 1 unsafe; 1 failed")


def test_explanations_are_lists_and_tables() -> None:
    s = study(seed=1)
    s.optimize(with_constraint, n_trials=6)
    moves = rlhf_tune.explain(s)
    assert isinstance(moves, list)
    assert moves[0] in moves
    lines = str(moves).splitlines()
    figures = ["q", "prior", "mean", "deviation", "p_safe", "why"]
    assert lines[1].split() == [*moves[0].params, *figures]
    assert len(lines) == 24  # title, head, 20 moves, the rest, counts
    assert max(map(len, lines)) <= 120
    pandas = pytest.importorskip("pandas")
    frame = moves.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(moves)
    assert frame["q"].tolist() == [move.q for move in moves]


def test_markup_in_names_is_shown_as_text() -> None:
    name = "<script>[red]\x1b[31m"
    s = sampled(lambda t: t.suggest_float(name, 0, 1))
    for shown in (rlhf_tune.explain(s), DQNSampler(seed=0).recommendation(s)):
        assert "<script>[red]\\x1b[31m" in str(shown)
        assert "<script>" not in shown._repr_html_()
        assert "&lt;script&gt;" in shown._repr_html_()
        assert "\x1b" not in str(shown) + shown._repr_html_()


SNIPPET = """\
import optuna
import rlhf_tune
from rlhf_tune.plot import plot_study

study: optuna.Study = optuna.load_study(study_name="s", storage="sqlite:///s.db")
best: dict[str, object] = rlhf_tune.recommend(study)
rate = float(rlhf_tune.recommend(study, policy="default", roles={"a": "learning_rate"})["a"])
for move in rlhf_tune.explain(study, seed=1, budget=30):
    chance: float = move.p_safe
expected: float = rlhf_tune.risk(study).predicted
print(rlhf_tune.risk(study), best, rate, expected)
plot_study(study).savefig("study.png")
"""


@pytest.mark.slow  # mypy reads all that is imported
@pytest.mark.parametrize(
    ("text", "accepted"), [(SNIPPET, True), (SNIPPET.replace("budget", "budgets"), False)]
)
def test_a_strict_checker_accepts_what_users_write(
    text: str, accepted: bool, tmp_path: Path
) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(text)
    root = Path(rlhf_tune.__file__).parent.parent
    words = [
        "--strict",
        "--config-file",
        str(root / "pyproject.toml"),
        str(tmp_path / "snippet.py"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode == 0) == accepted, done.stdout
