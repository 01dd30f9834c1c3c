"""Trials and studies made by hand."""

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

SPACE = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "batch_size": IntDistribution(16, 512, log=True),
}


def trial(value: float | None, lr: float, batch: int = 32, **constraints: float) -> FrozenTrial:
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params={"lr": lr, "batch_size": batch},
        distributions=SPACE,
        constraints=constraints or None,
    )


def study_of(*trials: FrozenTrial, direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study
