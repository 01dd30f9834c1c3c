"""`fit(..., reach=True)` for torch: the term in the loss, whose step it is, what is refused."""

import functools

import numpy as np
import pytest

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.safety import RobustAccuracy, constraint
from rlhf_tune.safety.attacks import Box
from rlhf_tune.safety.remedy import Batch, Remedy

torch = pytest.importorskip("torch")

from torch_runs import same

from rlhf_tune_integrations.pytorch import TorchTrainer, fit, worst_outputs

LOSS = torch.nn.functional.cross_entropy
RNG = np.random.default_rng(0)
# The first feature tells the classes apart by far; twenty others do so a little, together surely,
# and plain training listens to them: they are what an attack can move.
Y = RNG.integers(0, 2, 900)
SIDE = (2 * Y - 1)[:, None]
FAR = 0.5 + SIDE * 0.2 + RNG.normal(0, 0.08, (900, 1))
NEAR = 0.5 + SIDE * 0.05 + RNG.normal(0, 0.05, (900, 30))
X = np.clip(np.hstack([FAR, NEAR]), 0, 1).astype(np.float32)
TRAIN, VALIDATION, PROBE = (X[:300], Y[:300]), (X[300:400], Y[300:400]), (X[400:], Y[400:])
FLOOR = {"eps": 0.08, "at_least": 0.8}


def network(*layers):
    torch.manual_seed(0)
    body = layers or (torch.nn.Linear(31, 16), torch.nn.ReLU())
    return torch.nn.Sequential(*body, torch.nn.Linear(16, 2))


def reached(model=None, *, optimizer=torch.optim.Adam, constraints=None, **arguments):
    model = model or network()
    constraints = constraints or [RobustAccuracy(*PROBE, **FLOOR)]
    arguments = {"epochs": 12, "seed": 0, "verbose": 0, "reach": True, **arguments}
    step = arguments.pop("make_step", None)
    made = optimizer(model.parameters(), lr=1e-2)
    if step is not None:
        arguments["train_step"] = step(model, made)
    history = fit(model, made, LOSS, TRAIN, VALIDATION, constraints=constraints, **arguments)
    return model, history


def test_a_floor_that_plain_training_misses_is_reached_and_certified():
    floor = RobustAccuracy(*PROBE, **FLOOR)
    with pytest.raises(CannotCertify, match=r"missed by .*; reach=True trains against them") as no:
        reached(reach=False)
    model, history = usual()
    (name,) = history.certificate
    assert name == floor.name
    assert history.certificate[name].satisfied
    assert history.certificate[name].n == 250
    weights = history.history["adversarial_weight"]
    assert weights[0] == 0.25
    assert max(weights) > 0.25
    assert floor(model).value > floor(no.value.best).value + 0.1


@functools.cache
def usual():
    return reached()


def test_progress_names_the_weight(capsys):
    with pytest.raises(CannotCertify):
        reached(epochs=2, verbose=1, constraints=[RobustAccuracy(*PROBE, eps=0.08, at_least=0.98)])
    assert "adversarial_weight 0." in capsys.readouterr().out


def test_the_same_seed_gives_the_same_run():
    (one, first), (two, second) = usual(), reached()
    assert same(one, two)
    assert first.history == second.history


def attacked(model, x, y, eps=0.1, bounds=(0.0, 1.0)):
    seen = []
    handle = model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    batch = Batch(x, y, lambda outputs: LOSS(outputs, y))
    outputs = worst_outputs(model, batch, Box(eps, bounds), steps=2)
    handle.remove()
    return outputs, seen[-1]


def test_moved_inputs_stay_in_their_box_and_hurt():
    model, x, y = network(), torch.from_numpy(X[:50]), torch.from_numpy(Y[:50])
    outputs, moved = attacked(model, x, y)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert LOSS(outputs, y).item() > LOSS(model(x), y).item()
    assert outputs.requires_grad
    assert all(p.grad is None for p in model.parameters())
    eps = np.zeros(31)
    eps[3] = 0.1
    _, moved = attacked(model, x, y, eps=eps)
    assert torch.equal(torch.nonzero((moved != x).any(0)).flatten(), torch.tensor([3]))


def test_the_attack_leaves_statistics_alone_and_the_forward_pass_learns_them():
    model = network(torch.nn.Linear(31, 16), torch.nn.BatchNorm1d(16))
    norm = model[1]
    attacked(model, torch.from_numpy(X[:50]), torch.from_numpy(Y[:50]))
    assert int(norm.num_batches_tracked) == 1  # the pass that is trained on; not the attack's
    assert norm.training


def test_batch_norm_and_dropout_are_trained():
    body = torch.nn.Linear(31, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.1)
    _, history = reached(
        network(*body), constraints=[RobustAccuracy(*PROBE, eps=0.08, at_least=0.6)]
    )
    assert history.certificate


def plain_step(model, optimizer):
    def step(batch, term):
        x, y = batch
        optimizer.zero_grad()
        outputs = model(x)
        loss = LOSS(outputs, y) + term(x, y, outputs)
        loss.backward()
        optimizer.step()
        return loss

    return step


def test_a_step_of_the_users_is_the_same_run():
    (one, first), (two, second) = usual(), reached(make_step=plain_step)
    assert same(one, two)
    assert first.history["adversarial_weight"] == second.history["adversarial_weight"]


def test_mixed_precision_and_accumulation_belong_into_the_step():
    def make(model, optimizer):
        taken = []

        def step(batch, term):
            x, y = batch
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = model(x)
                loss = LOSS(outputs, y) + term(x, y, outputs)
            (loss / 2).backward()
            taken.append(loss)
            if len(taken) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            return loss

        return step

    _, history = reached(make_step=make, batch_size=16)
    assert history.certificate


def test_the_weights_of_samples_count_in_the_term():
    """Beside samples of weight 0 a batch trains as without them, at half the mean."""

    def trained(count, weights):
        model = network()
        x, y = X[:count], Y[:count]
        knob = Remedy(("w",), lambda model, batch, outputs, weights: batch.loss(outputs))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data, loss_fn = (x, y, *weights), torch.nn.CrossEntropyLoss()
        arguments = {"batch_size": count, "remedies": [knob], "seed": 0}
        trainer = TorchTrainer(model, optimizer, loss_fn, data, VALIDATION, **arguments)
        return trainer.train(1)["loss"], model

    alone, one = trained(20, ())
    weights = np.where(np.arange(40) < 20, 2.0, 0.0).astype(np.float32)
    beside, two = trained(40, (weights,))
    assert beside == pytest.approx(alone, rel=1e-5)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_stream_is_trained_on():
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from zip(*map(torch.from_numpy, TRAIN), strict=True)

    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    floor = RobustAccuracy(*PROBE, eps=0.08, at_least=0.3)
    arguments = {"steps_per_epoch": 10, "epochs": 6, "verbose": 0, "reach": True}
    history = fit(model, optimizer, LOSS, Rows(), VALIDATION, constraints=[floor], **arguments)
    assert history.certificate[floor.name].satisfied
    assert "batch_size" not in history.history
    assert len(set(history.history["adversarial_weight"])) > 1


def test_a_step_that_never_asks_for_the_term_is_found_out():
    def make(model, optimizer):
        step = plain_step(model, optimizer)
        return lambda batch, term: step(batch, lambda *_: 0.0)

    with pytest.raises(InvalidInputError, match=r"never called it.*adversarial_weight"):
        reached(make_step=make)


def test_what_has_no_place_for_a_term_is_refused_before_training():
    def make(model, optimizer):
        return lambda batch: plain_step(model, optimizer)(batch, lambda *_: 0.0)

    with pytest.raises(InvalidInputError, match=r"train_step must take \(batch, term\)"):
        reached(make_step=make)
    with pytest.raises(InvalidInputError, match="evaluates it several times"):
        reached(optimizer=torch.optim.LBFGS)
    with pytest.raises(InvalidInputError, match="offers a remedy"):
        reached(constraints=[constraint("size", lambda model: 1.0, at_most=2)])


def test_integers_have_no_gradient():
    x, y = torch.ones(4, 31, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InvalidInputError, match=r"one tensor of floats, but got torch\.int64"):
        worst_outputs(network(), Batch(x, y, None), Box(0.1, (0, 1)), steps=2)


def test_a_remedy_of_the_users_own_is_a_weight_like_any_other():
    def small(model, batch, outputs, weights):
        return weights["decay"] * sum(p.square().sum() for p in model.parameters())

    def size(model):
        return float(sum(p.detach().square().sum() for p in model.parameters()))

    limit = constraint("size", size, at_most=4.0, remedy=Remedy(("decay",), small))
    right = constraint("right", accuracy, at_least=0.7)
    model, history = reached(constraints=[limit, right], epochs=20)
    assert history.certificate["size"].value <= 4.0
    assert accuracy(model) >= 0.7
    assert len(set(history.history["decay"])) > 1


def accuracy(model):
    with torch.no_grad():
        return float((model(torch.from_numpy(PROBE[0])).argmax(1).numpy() == PROBE[1]).mean())


def test_weights_are_part_of_a_snapshot():
    model = network()
    remedy = RobustAccuracy(*PROBE, **FLOOR).remedy()
    optimizer = torch.optim.Adam(model.parameters())
    trainer = TorchTrainer(model, optimizer, LOSS, TRAIN, VALIDATION, remedies=[remedy], seed=0)
    trainer.train(3)
    kept = trainer.snapshot()
    trainer.set(adversarial_weight=0.6)
    assert trainer.hyperparameters["adversarial_weight"] == 0.6
    first = trainer.train(3)["loss"]
    trainer.restore(kept)
    assert trainer.hyperparameters["adversarial_weight"] == 0.25
    trainer.set(adversarial_weight=0.6)
    assert trainer.train(3)["loss"] == first
    with pytest.raises(InvalidInputError, match="adversarial_weight can be set"):
        trainer.set(fair_weight=0.1)
