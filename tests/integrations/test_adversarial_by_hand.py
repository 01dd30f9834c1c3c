"""Adversarial training in a loop by hand, with a weight that a study chooses, as the docs show."""

import numpy as np
import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune.safety.remedy import Batch, adversarial_training

torch = pytest.importorskip("torch")

from test_torch_reach import LOSS, PROBE, TRAIN, network

REMEDY = adversarial_training(eps=0.08)


def trained(weight, rate=0.01):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    x, y = map(torch.from_numpy, TRAIN)
    for _ in range(150):
        optimizer.zero_grad()
        outputs = model(x)
        batch = Batch(x, y, lambda given: LOSS(given, y))
        term = REMEDY.term(model, batch, outputs, {"adversarial_weight": weight})
        (LOSS(outputs, y) + term).backward()
        optimizer.step()
    return model


def test_the_weight_is_a_parameter_like_any_other():
    robust = RobustAccuracy(*PROBE, eps=0.08, at_least=0.8)

    def objective(trial):
        weight = trial.suggest_float("adversarial_weight", 0.0, 1.0)
        measured = robust(trained(weight))
        trial.set_constraint(measured.name, measured.cost)
        return measured.details["clean_accuracy"]

    sampler = DQNSampler(seed=0, start={"adversarial_weight": 0.0})
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=4)
    first, *_ = study.trials
    assert first.params["adversarial_weight"] == 0.0
    assert first.constraints[robust.name] > 0  # plain training misses the floor
    kept = [t for t in study.trials if t.constraints[robust.name] <= 0]
    assert kept
    assert sampler.recommend(study)["adversarial_weight"] in [
        t.params["adversarial_weight"] for t in kept
    ]


def test_weight_0_is_plain_training_and_1_is_on_attacked_inputs_alone():
    x, y = torch.from_numpy(TRAIN[0]), torch.from_numpy(TRAIN[1])
    model, batch = network(), Batch(x, y, lambda given: LOSS(given, y))
    outputs = model(x)
    assert float(REMEDY.term(model, batch, outputs, {"adversarial_weight": 0.0}).detach()) == 0
    whole = REMEDY.term(model, batch, outputs, {"adversarial_weight": 1.0})
    assert (LOSS(outputs, y) + whole).item() > LOSS(outputs, y).item()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        half = REMEDY.term(model, batch, outputs, {"adversarial_weight": 0.5}).item()
        torch.manual_seed(3)
        assert REMEDY.term(model, batch, outputs, {"adversarial_weight": 1.0}).item() == (
            pytest.approx(2 * half)
        )
    assert np.isfinite(half)
