"""What the pages take for granted: small data and models by the names that they use."""

from collections.abc import Callable
from typing import Any

import numpy as np

Names = dict[str, Any]


def _images(n: int) -> tuple[Any, Any]:
    """Rows of scikit-learn's digits [n, 64] within 0 and 1, and their labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))[:n]
    return (x / 16).astype("float32")[rows], y[rows]


def _divided(x: Any, y: Any, first: int, second: int) -> Names:
    """Arrays to train on, to validate on and to probe and test with."""
    train, validation, probe = slice(first), slice(first, None), slice(second, None)
    parts = {"train": train, "val": validation, "probe": probe, "test": probe}
    inputs = {f"x_{name}": x[rows] for name, rows in parts.items()}
    return inputs | {f"y_{name}": y[rows] for name, rows in parts.items()}


def digits() -> Names:
    """A trained PyTorch network with its data, and what a loop and a trial of it are made of."""
    import optuna
    import torch

    from rlhf_tune.safety import RobustAccuracy
    from rlhf_tune_integrations.pytorch import TorchTrainer

    x, y = _images(900)
    train, validation = (x[:400], y[:400]), (x[400:], y[400:])

    def make_model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )

    model, loss_fn = make_model(), torch.nn.functional.cross_entropy
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def train_one_epoch(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for rows in torch.arange(400).split(50):
            optimizer.zero_grad()
            loss_fn(model(torch.tensor(train[0])[rows]), torch.tensor(train[1])[rows]).backward()
            optimizer.step()

    @torch.no_grad()
    def validate(model: torch.nn.Module) -> float:
        return float(loss_fn(model(torch.tensor(validation[0])), torch.tensor(validation[1])))

    for _ in range(20):
        train_one_epoch(model, optimizer)
    return {
        "model": model,
        "make_model": make_model,
        "loss_fn": loss_fn,
        "loss": loss_fn,
        "optimizer": optimizer,
        "train": train,
        "validation": validation,
        "train_one_epoch": train_one_epoch,
        "validate": validate,
        "trainer": TorchTrainer(model, optimizer, loss_fn, train, validation),
        "trial": optuna.create_study().ask(),
        "robust": RobustAccuracy(x[400:], y[400:], eps=0.01, at_least=0.5),
        "size": lambda model: float(sum(p.square().sum() for p in model.parameters())),
        "age": np.where(np.arange(900) % 3 == 0, "old", "young"),
        "x": x,
        "y": y,
    } | _divided(x, y, 400, 400)


def batch() -> Names:
    """A batch of tensors."""
    import torch

    x, y = _images(32)
    return {"x": torch.tensor(x), "y": torch.tensor(y)}


def keras() -> Names:
    """A compiled Keras model of the same images."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return {"model": model}


def people() -> Names:
    """People of two sexes and two races whom past decisions treated alike."""
    import torch

    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 3)).astype("float32")
    y = (x[:, 0] + 0.3 * rng.normal(size=6000) > 0).astype(np.int64)
    sex, race = rng.choice(["f", "m"], 6000), rng.choice(["a", "b"], 6000)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)

    def is_right(model: torch.nn.Module) -> Any:
        with torch.no_grad():
            return model(torch.tensor(x[3000:])).argmax(1).numpy() == y[3000:]

    return {
        "y_true": y[:2000],
        "y_pred": (x[:2000, 0] > 0).astype(np.int64),
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "loss_fn": torch.nn.functional.cross_entropy,
        "is_right": is_right,
        "race": race[:2000],
        "sex": sex[:2000],
        "sex_probe": sex[3000:],
        "x": x[:2000],
        "y": y[:2000],
    } | _divided(x, y, 2000, 3000)


def wishes() -> Names:
    """An objective, a person who answers, and comparisons of outcomes."""
    from pathlib import Path

    Path("constitution.toml").write_text("[outcomes.seconds]\nat_most = 60\n")
    rng = np.random.default_rng(0)
    outcomes = rng.normal(size=(60, 3))
    preferred, rejected = outcomes[:30], outcomes[30:]
    swap = (preferred @ [2, 1, -1] < rejected @ [2, 1, -1])[:, None]

    def objective(trial: Any) -> dict[str, float]:
        lr = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        width = trial.suggest_int("width", 8, 64)
        accuracy = 0.9 - 0.05 * (np.log10(lr) + 2.5) ** 2
        return {"accuracy": accuracy, "robust": accuracy - 0.2, "seconds": float(width)}

    return {
        "train": lambda lr, width: None,
        "objective": objective,
        "ask": lambda left, right: (1.0, 0.0),
        "contexts": ["edge", "server"] * 15,
        "preferred": np.where(swap, rejected, preferred),
        "rejected": np.where(swap, preferred, rejected),
        "held_out_preferred": np.where(swap, rejected, preferred)[:5],
        "held_out_rejected": np.where(swap, preferred, rejected)[:5],
        "outcomes": outcomes[:3],
        "a": outcomes[0],
        "b": outcomes[1],
    }


def steps() -> Names:
    """A loop by hand that can be told of by its steps."""
    of = digits()
    model, optimizer, loss_fn = of["model"], of["optimizer"], of["loss_fn"]

    def train_step(rows: Any) -> float:
        import torch

        optimizer.zero_grad()
        x, y = (torch.tensor(part)[rows] for part in of["train"])
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    loader = np.split(np.arange(400), 8)
    found = {"loader": loader, "train_step": train_step}
    return of | found | {"validate": lambda: {"val_loss": of["validate"](model)}}


def study() -> Names:
    """A study under a constraint, and its objective."""
    import optuna

    from rlhf_tune import DQNSampler

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.set_constraint("too hot", lr - 0.02)
        return abs(lr - 0.01)

    sampler = DQNSampler(seed=0, budget=20)
    return {"study": optuna.create_study(sampler=sampler), "objective": objective}


def looked() -> Names:
    """A study in a storage, and the history of a run."""
    import optuna

    from rlhf_tune_integrations.pytorch import fit

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.set_constraint("too hot", lr - 0.02)
        return abs(lr - 0.01)

    study = optuna.create_study(study_name="digits", storage="sqlite:///study.db")
    study.optimize(objective, 5)
    of = digits()
    made = (of["model"], of["optimizer"], of["loss_fn"], of["train"], of["validation"])
    return {"history": fit(*made, epochs=2, seed=0)}


SETS: dict[str, Callable[[], Names]] = {
    "batch": batch,
    "digits": digits,
    "keras": keras,
    "looked": looked,
    "people": people,
    "steps": steps,
    "study": study,
    "wishes": wishes,
}
