"""What parameters are taken for, by the names that people give them."""

import logging
import math
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rlhf_tune import DQNSampler
from rlhf_tune.study.roles import guessed, role_of

RATES = (
    "lr learning_rate learning-rate learningRate LearningRate LR lrate learn_rate lr0 eta eta0 "
    "model.lr0 optimizer.lr optimizer__lr train/lr lr_head head_lr lr_1 base_lr max_lr initial_lr "
    "learning_rate_init actor:learning_rate step_size"
)
SIZES = (
    "batch_size batchsize batchSize BATCH_SIZE bs train_bs batch minibatch minibatch_size "
    "mini_batch_size data.batch_size train_batch_size per_device_train_batch_size"
)
OTHERS = (
    "log_lr log10_lr lnlr_x lr_decay lr_gamma lr_schedule lr_warmup_steps eta_min lr_ratio "
    "lr_mult log2_batch_size batch_size_exp frac_batch batch_norm num_batches eval_batch_size "
    "batch_momentum momentum decay alpha jobs filters color beta beta_2 theta zeta absolute lrn"
)


@pytest.mark.parametrize("name", RATES.split())
def test_names_of_a_learning_rate(name: str) -> None:
    assert guessed(name) == "learning_rate"


@pytest.mark.parametrize("name", SIZES.split())
def test_names_of_a_batch_size(name: str) -> None:
    assert guessed(name) == "batch_size"


@pytest.mark.parametrize("name", OTHERS.split())
def test_names_that_only_look_like_roles(name: str) -> None:
    assert guessed(name) == "other"


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("eta", FloatDistribution(-2, 2)),
        ("lr", CategoricalDistribution(["slow", "fast"])),
        ("step_size", IntDistribution(1, 30)),
        ("batch_size", CategoricalDistribution([-1, 16, 128])),
        ("batch_size", FloatDistribution(8, 64)),
        ("batch", IntDistribution(0, 8)),
        ("bs", CategoricalDistribution(["8", "full"])),
    ],
)
def test_a_guess_that_does_not_fit_the_range_is_dropped(name: str, distribution: Any) -> None:
    assert role_of(name, distribution, None) == "other"


def test_a_study_says_what_it_recognised(caplog: pytest.LogCaptureFixture) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_int("opt.bs", 8, 64)
        trial.suggest_float("wd", 0, 1)
        return math.log10(trial.suggest_float("opt.lr", 1e-5, 1e-1, log=True))

    study = optuna.create_study(sampler=DQNSampler(seed=0, roles={"wd": "other"}))
    with caplog.at_level(logging.INFO, logger="rlhf_tune"):
        study.optimize(objective, n_trials=3)
    said = [record.message for record in caplog.records if "seen" in record.message]
    assert said == [
        "parameters seen: opt.bs as batch_size (log scale, starts at 32); opt.lr as learning_rate "
        "(log scale, starts at 0.001); wd as other (linear scale, starts at 0.5). "
        "`roles` and `start` of the sampler say otherwise"
    ]
