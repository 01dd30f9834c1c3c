"""`fair_weight` in torch: a gap ceiling is reached and holds; groups come with the batches."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fair_data import PROBE, SEX, TEST, TRAIN, VALIDATION, N, X, Y, gap, of

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.safety import GroupFairness, constraint
from rlhf_tune.safety.remedy import Batch

torch = pytest.importorskip("torch")

from rlhf_tune_integrations.pytorch import TorchTrainer, fit, mean_price

LOSS = torch.nn.functional.cross_entropy


def network(outputs: int = 2) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs))


def predicted(model: Any, part: slice) -> Any:
    with torch.no_grad():
        return model(torch.from_numpy(X[part])).argmax(1).numpy()


def ceilings(at_most: float = 0.15, **arguments: Any) -> Any:
    right = constraint("right", lambda m: predicted(m, VALIDATION) == Y[VALIDATION], at_least=0.6)
    return [GroupFairness(*of(PROBE), {"sex": SEX[PROBE]}, at_most=at_most, **arguments), right]


def run(model: Any = None, *, train: Any = None, **arguments: Any) -> Any:
    model = model or network()
    options = {"epochs": 8, "batch_size": 32, "seed": 0, "verbose": 0, **arguments}
    options = {"constraints": ceilings(), "reach": True, "groups": {"sex": SEX[TRAIN]}, **options}
    if step := options.pop("make_step", None):
        options["train_step"] = step(model)
    optimizer = options.pop("optimizer", None) or torch.optim.Adam(model.parameters(), lr=1e-2)
    train = of(TRAIN) if train is None else train
    return model, fit(model, optimizer, LOSS, train, of(VALIDATION), **options)


@functools.cache
def usual() -> Any:
    return run()


def test_a_gap_that_plain_training_has_is_closed_certified_and_holds_on_others() -> None:
    with pytest.raises(CannotCertify, match="reach=True trains against them"):
        run(reach=False, groups=None)
    plain, _ = run(constraints=(), reach=False, groups=None)
    assert gap(predicted(plain, TEST), TEST) > 0.3
    model, history = usual()
    assert history.certificate["demographic_parity"].satisfied
    assert abs(gap(predicted(model, TEST), TEST)) < 0.15
    assert max(history.history["fair_weight"]) > 0.5
    # Not by learning nothing: constant answers are right in about half.
    assert (predicted(model, TEST) == Y[TEST]).mean() > 0.7


def test_the_same_seed_gives_the_same_run() -> None:
    (one, first), (two, second) = usual(), run()
    assert first.history == second.history
    assert np.array_equal(predicted(one, TEST), predicted(two, TEST))


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    class CutError(Exception):
        pass

    def cut(epoch: Any) -> None:
        if len(seen) == 3:
            raise CutError
        seen.append(epoch)

    seen: list[Any] = []
    with pytest.raises(CutError):
        run(on_epoch=cut, checkpoint=tmp_path / "run")
    model, history = run(checkpoint=tmp_path / "run")
    whole, expected = usual()
    assert history.history == expected.history
    assert np.array_equal(predicted(model, TEST), predicted(whole, TEST))


def test_a_loader_and_a_stream_bring_their_groups() -> None:
    """One epoch each: the gradient's rows are the groups' rows, or the weight does nothing."""
    tensors = torch.utils.data.TensorDataset(*map(torch.from_numpy, of(TRAIN)))
    loader = torch.utils.data.DataLoader(tensors, batch_size=64, shuffle=True)
    seen = []
    for train, groups in (
        (loader, {"sex": SEX[TRAIN]}),
        (torch.utils.data.DataLoader(Stream(), batch_size=64), None),
    ):
        trainer = TorchTrainer(
            model := network(),
            torch.optim.Adam(model.parameters(), lr=1e-2),
            LOSS,
            train,
            of(VALIDATION),
            remedies=(ceilings()[0].remedy(),),
            groups=groups,
            steps_per_epoch=None if groups else 19,
        )
        trainer.set(fair_weight=2.0)
        trainer.train(150)
        seen.append(gap(predicted(model, TEST), TEST))
    assert all(each < 0.1 for each in seen)


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        for i in range(TRAIN.stop):
            yield X[i], Y[i], {"sex": str(SEX[i])}


def test_the_sign_of_the_weight_is_the_direction_of_the_gap() -> None:
    gaps = []
    for weight in (-1.5, 0.0, 1.5):
        trainer = TorchTrainer(
            model := network(),
            torch.optim.Adam(model.parameters(), lr=1e-2),
            LOSS,
            of(TRAIN),
            of(VALIDATION),
            remedies=(ceilings()[0].remedy(),),
            groups={"sex": SEX[TRAIN]},
            seed=0,
        )
        trainer.set(fair_weight=weight)
        trainer.train(150)
        gaps.append(gap(predicted(model, TEST), TEST))
    assert gaps[0] > gaps[1] + 0.1 > gaps[2] + 0.3


def test_a_train_step_adds_the_term_of_its_whole_batch() -> None:
    def whole(model: Any) -> Any:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

        def step(batch: Any, term: Any) -> Any:
            x, y = batch
            optimizer.zero_grad()
            outputs = model(x)
            loss = LOSS(outputs, y) + term(x, y, outputs)
            loss.backward()
            optimizer.step()
            return loss

        step.optimizer = optimizer  # type: ignore[attr-defined]
        return step

    model = network()
    step = whole(model)
    history = run(model, train_step=step, optimizer=step.optimizer)[1]
    assert history.certificate["demographic_parity"].satisfied

    def half(batch: Any, term: Any) -> Any:
        x, y = batch
        return term(x[:9], y[:9], model(x[:9])) + LOSS(model(x), y)

    with pytest.raises(InvalidInputError, match="with the whole batch, whose groups are known"):
        run(model, train_step=half)


@pytest.mark.parametrize("form", ["two logits", "probabilities", "one logit", "one probability"])
def test_every_form_of_output_has_the_same_price(form: str) -> None:
    """Of a sample the probability of its class times its price, by hand."""
    logits = torch.tensor([[0.0, 1.0], [0.0, -2.0], [0.0, 0.3]])
    chance = logits.softmax(1)
    outputs, kind, y = {
        "two logits": (logits, "logits", torch.tensor([1, 0, 1])),
        "probabilities": (chance, "probabilities", torch.eye(2)[[1, 0, 1]]),
        "one logit": (logits[:, 1:], "logits", torch.tensor([[1.0], [0.0], [1.0]])),
        "one probability": (chance[:, 1], "probabilities", torch.tensor([1.0, 0.0, 1.0])),
    }[form]
    prices = torch.tensor([1.0, 5.0, -2.0]), torch.tensor([7.0, 3.0, 9.0])
    batch = Batch(None, y, lambda _: 0.0)
    for positive in (1, 0):
        paid = mean_price(network(), batch, outputs, *prices, positive=positive, kind=kind)
        chosen = [1.0, 3.0, -2.0] if positive == 1 else [7.0, 5.0, 9.0]
        expected = (chance[:, positive] * torch.tensor(chosen)).mean()
        assert float(paid) == pytest.approx(float(expected))


def test_in_a_study_the_weight_is_a_parameter_like_any_other() -> None:
    """As the docs show it."""
    optuna = pytest.importorskip("optuna")
    from rlhf_tune import DQNSampler

    gap_ceiling = ceilings()[0]

    def objective(trial: Any) -> float:
        model = network()
        trainer = TorchTrainer(
            model,
            torch.optim.Adam(model.parameters(), lr=1e-2),
            LOSS,
            of(TRAIN),
            of(VALIDATION),
            remedies=[gap_ceiling.remedy()],
            groups={"sex": SEX[TRAIN]},
            seed=0,
        )
        trainer.set(fair_weight=trial.suggest_float("fair_weight", 0.0, 3.0))
        trainer.train(150)
        measured = gap_ceiling(model)
        trial.set_constraint(measured.name, measured.cost)
        return measured.details["accuracy"]

    sampler = DQNSampler(seed=0, start={"fair_weight": 0.0})
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=5)
    costs = {t.params["fair_weight"]: t.constraints[gap_ceiling.name] for t in study.trials}
    assert costs[0.0] > 0
    assert min(costs.values()) <= 0
    assert costs[sampler.recommend(study)["fair_weight"]] <= 0


def test_what_cannot_be_priced_is_refused() -> None:
    for changes, says in (
        ({"groups": None}, "`groups` must be given, the group of each training sample"),
        ({"groups": {"sex": SEX[:9]}}, f"for each of the {TRAIN.stop} samples, but has 9"),
        ({"groups": SEX[TRAIN]}, r"\['sex'\], but has \['group'\]"),
        ({"reach": False}, "`groups` are for a remedy"),
        ({"constraints": ceilings()[:1]}, "a ceiling needs a floor beside it"),
        ({"train": Stream(), "steps_per_epoch": 9}, "as a further element"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            run(**changes)
    batch = Batch(None, torch.zeros(2), lambda _: 0.0)
    with pytest.raises(InvalidInputError, match=r"outputs \[B, C\], but got \(2, 3, 4\)"):
        mean_price(network(), batch, torch.zeros(2, 3, 4), 0, 0, positive=1, kind="auto")


def test_two_ceilings_have_a_multiplier_each() -> None:
    other = np.where(np.arange(N) % 2, "x", "y")
    named = GroupFairness(*of(PROBE), {"half": other[PROBE]}, at_most=0.2, name="by_half")
    _, history = run(
        constraints=[*ceilings(), named], groups={"sex": SEX[TRAIN], "half": other[TRAIN]}
    )
    assert set(history.certificate) == {"demographic_parity", "by_half", "right"}
    # The groups of the second differ by chance alone: its weight stays where it began.
    assert max(map(abs, history.history["fair_weight[by_half]"])) < 0.1
    assert max(history.history["fair_weight"]) > 0.5
