"""Tune a learning rate and a batch size under a constraint."""

import math

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    """A bowl whose best learning rates are not allowed."""
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    batch = trial.suggest_int("batch_size", 16, 512, log=True)
    trial.set_constraint("rate", math.log10(rate) + 2.5)  # at most 0 is satisfied
    return (math.log10(rate) + 2) ** 2 + 0.1 * (math.log2(batch) - 7) ** 2


if __name__ == "__main__":
    module = optunahub.load_module("samplers/rlhf_tune_dqn")
    sampler = module.DQNSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=20)
    print(sampler.recommend(study))
