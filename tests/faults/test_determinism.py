"""The same seed on the same machine: the same figures, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

STUDY = """
import sys, math, optuna
from rlhf_tune import DQNSampler
optuna.logging.set_verbosity(optuna.logging.CRITICAL)
def objective(trial):
    rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    size = trial.suggest_int("batch_size", 16, 256, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    trial.set_constraint("c", math.log10(rate) + 1.5)
    return (math.log10(rate) + 2.2) ** 2 + 0.1 * (math.log2(size) - 6) ** 2 + (kind == "a")
for policy in ("default", "dqn", "plan", "no_prior", "random"):
    study = optuna.create_study(sampler=DQNSampler(seed=3, policy=policy, budget=12))
    study.optimize(objective, 12)
    print([t.params for t in study.trials], study.sampler.recommend(study))
"""

ATTACKS = """
import numpy as np, torch
from rlhf_tune.safety import perturb
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
x = np.random.default_rng(0).random((40, 5)).astype(np.float32)
y = np.arange(40) % 3
for attack in ("noise", "fgsm", "pgd"):
    print(attack, perturb(model, x, y, eps=0.1, attack=attack, seed=1).tobytes().hex())
"""

TORCH = """
import numpy as np, torch
from rlhf_tune_integrations.pytorch import fit
rng = np.random.default_rng(0)
x = rng.normal(size=(300, 4)).astype(np.float32); y = (x[:, 0] > 0).astype(np.int64)
for policy in ("default", "dqn", "grow"):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    history = fit(model, optimizer, torch.nn.functional.cross_entropy, (x[:200], y[:200]),
                  (x[200:], y[200:]), epochs=4, policy=policy, seed=2, verbose=0)
    print(history.history, [p.detach().numpy().tobytes().hex() for p in model.parameters()])
"""

KERAS = """
import keras, numpy as np
from rlhf_tune_integrations.keras import fit
rng = np.random.default_rng(0)
x = rng.normal(size=(300, 4)).astype(np.float32); y = (x[:, 0] > 0).astype(np.int64)
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = fit(model, x[:200], y[:200], validation_data=(x[200:], y[200:]), epochs=3, seed=2,
              verbose=0)
print(history.history, [w.tobytes().hex() for w in model.get_weights()])
"""

AGENTS = """
import numpy as np
from rlhf_tune.agents.dqn import DQN
from rlhf_tune.agents.replay import Batch
rng = np.random.default_rng(0)
agent = DQN(rng.normal(size=(4, 2)), 3, seed=0)
for _ in range(60):
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    rest = np.full(16, .9, np.float32), draw(16, 3), np.ones((16, 4), bool)
    agent.learn(Batch(draw(16, 3), draw(16, 2), draw(16), *rest))
acts = [agent.act(draw(3), np.ones(4, bool), epsilon=.5) for _ in range(20)]
print(acts, [w.tobytes().hex() for layer in agent.layers for w in layer])
"""


def twice(code: str) -> None:
    outs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outs[0]
    assert outs[0] == outs[1]


def test_studies_of_all_policies() -> None:
    twice(STUDY)


def test_attacks_and_moves_of_pytorch() -> None:
    for package in ("torch", "cleverhans"):
        pytest.importorskip(package)
    twice(ATTACKS + TORCH)


@pytest.mark.slow
@pytest.mark.keras
def test_moves_of_keras() -> None:
    pytest.importorskip("keras")
    twice(KERAS)


def test_the_training_of_agents() -> None:
    pytest.importorskip("torch")
    twice(AGENTS)


@pytest.mark.slow
def test_a_pretrained_policy_is_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.faults import victims; "
        "victims.begun = lambda: None; print(victims._run_pretrain(Path(sys.argv[1])))"
    )
    found = set()
    for name in "ab":
        (tmp_path / name).mkdir()
        run = subprocess.run(
            [sys.executable, "-c", code, tmp_path / name],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        found.add(run.stdout)
    assert len(found) == 1
