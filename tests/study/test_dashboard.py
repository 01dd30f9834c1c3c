"""What optuna-dashboard is given to show, and that the sampler gives it nothing by itself."""

from pathlib import Path

import optuna
import pytest
from optuna.samplers import GridSampler

from rlhf_tune import CannotCertify, DQNSampler, dashboard_attributes, dashboard_note
from rlhf_tune.cli.main import main
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.dashboard import RECOMMENDED, describe, recommended_trial
from tests.study.bowl import objective, params, study, with_constraint

dashboard = pytest.importorskip("optuna_dashboard", reason="pip install 'rlhf-tune[dashboard]'")


def note_of(s: optuna.Study, number: int | None = None) -> str:
    about = s if number is None else optuna.trial.Trial(s, s.trials[number]._trial_id)
    return dashboard.get_note(about)


def test_attributes_and_notes_say_what_was_decided_and_change_no_decision() -> None:
    s, plain = study(seed=1), study(seed=1)
    s.optimize(dashboard_attributes(with_constraint), n_trials=8, callbacks=[dashboard_note])
    plain.optimize(with_constraint, n_trials=8)
    assert params(s) == params(plain)
    assert not any(t.user_attrs for t in plain.trials)
    assert plain.user_attrs == {}
    for t in s.trials:
        assert t.user_attrs["constraint robustness"] == t.constraints["robustness"]
        assert ("p_safe" in t.user_attrs) == (t.number > 0)
    assert s.trials[0].user_attrs["move"] == "start"
    moves = {t.user_attrs["move"] for t in s.trials[1:]}
    assert all("->" in move or move == "stay" for move in moves)
    assert len(moves) > 4
    assert s.user_attrs[RECOMMENDED]["params"] == s.sampler.recommend(s)
    assert f"trial {s.user_attrs[RECOMMENDED]['trial']}" in note_of(s)
    assert "constraint robustness" in note_of(s, 3)


def test_p_safe_is_what_the_sampler_had_predicted() -> None:
    s = study(seed=1)
    s.optimize(dashboard_attributes(with_constraint), n_trials=10)
    risk = s.sampler.risk(s)
    said = [s.trials[n].user_attrs["p_safe"] for n in risk.numbers]
    assert said == pytest.approx(risk.p_safe.tolist(), abs=1e-3)


def test_a_violating_best_value_is_named_in_the_note() -> None:
    s = study()
    s.optimize(with_constraint, n_trials=12)
    s.enqueue_trial({"lr": 1e-2, "batch_size": 128})  # the optimum, which is unsafe
    s.optimize(with_constraint, n_trials=1)
    dashboard_note(s)
    assert "trial 12, which it calls the best, violates one" in note_of(s)
    assert recommended_trial(s).constraints["robustness"] <= 0


def test_nothing_to_recommend_is_said() -> None:
    s = study()

    def unsafe(trial: optuna.Trial) -> float:
        trial.set_constraint("size", float("inf"))
        return objective(trial)

    s.optimize(dashboard_attributes(unsafe), n_trials=2)
    dashboard_note(s)
    assert s.user_attrs[RECOMMENDED].startswith("no trial satisfies all constraints")
    assert s.trials[0].user_attrs["constraint size"] == "inf"  # as no browser reads Infinity
    with pytest.raises(CannotCertify):
        recommended_trial(s)


def test_text_from_elsewhere_is_no_markup() -> None:
    s = study()

    def odd(trial: optuna.Trial) -> float:
        trial.suggest_categorical("a|b", ["<script>alert(1)</script>", "x\n| y"])
        trial.set_constraint("[click](http://evil)", -1.0)
        return objective(trial)

    s.optimize(odd, n_trials=3)
    dashboard_note(s)
    for text in (note_of(s), note_of(s, 0), note_of(s, 1)):
        assert "<script>" not in text.replace("\\<script\\>", "")
        assert "[click](" not in text.replace("\\", "!")
        assert all(
            line.startswith(("|", "#", "*", "The ")) or not line for line in text.split("\n")
        )


def test_somebody_else_s_note_stays() -> None:
    s = study()
    s.optimize(objective, n_trials=2)
    dashboard.save_note(s, "mine")
    dashboard_note(s)
    assert note_of(s) == "mine"


def test_failed_maximised_conditional_and_foreign_studies_are_described(tmp_path: Path) -> None:
    grid = GridSampler({"lr": [1e-3, 1e-2]}, seed=0)
    s = optuna.create_study(sampler=grid, direction="maximize")

    def odd(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        if trial.number == 1:
            raise ValueError
        return lr

    s.optimize(dashboard_attributes(odd), n_trials=2, catch=(ValueError,))
    dashboard_note(s)
    assert s.user_attrs[RECOMMENDED]["trial"] == 0
    assert describe(s, s.trials[1])["move"].startswith("lr ")


@pytest.mark.parametrize("kind", ["several", "comparisons"])
def test_studies_without_one_objective_are_refused(kind: str) -> None:
    if kind == "several":
        s = optuna.create_study(directions=["minimize", "minimize"])
    else:
        from rlhf_tune.study.preferences import make_preferential

        s = study()
        make_preferential(s)
    with pytest.raises(InvalidInputError, match=kind):
        dashboard_note(s)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    s = optuna.create_study(study_name="s", storage=url, sampler=DQNSampler(seed=0))
    s.optimize(with_constraint, n_trials=4)
    assert main(["note", "--study", "s", "--storage", url]) == 0
    said = capsys.readouterr().out
    assert said.startswith("recommended: trial ")
    assert "Recommended" in note_of(s)
    assert main(["note", "--study", "other", "--storage", url]) == 2
    assert "`--study` must be one of `--storage`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["note", "--help"])
    assert "dashboard_attributes" in capsys.readouterr().out
