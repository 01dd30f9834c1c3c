"""What `fit` for torch takes, and the one sentence where it does not."""

import numpy as np
import pytest
from torch_runs import LOSS, TRAIN, VALIDATION, network

from rlhf_tune.errors import DivergedError, InvalidInputError

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from rlhf_tune_integrations.pytorch import Controller, fit

nn = torch.nn


def run(model=None, optimizer=None, loss=LOSS, train=TRAIN, validation=VALIDATION, **arguments):
    model = network() if model is None else model
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-2)
    arguments = {"epochs": 2, "verbose": 0, "seed": 0, **arguments}
    return fit(model, optimizer, loss, train, validation, **arguments)


def losses(**arguments):
    return run(**arguments).history["val_loss"]


# Arrays


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
def test_arrays_take_the_floats_of_the_model(dtype, given):
    cast = [(x.astype(given), y) for x, y in (TRAIN, VALIDATION)]
    assert np.isfinite(losses(model=network().to(dtype), train=cast[0], validation=cast[1])).all()


@pytest.mark.parametrize("given", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_labels_of_every_integer_are_classes(given):
    cast = [(x, y.astype(given)) for x, y in (TRAIN, VALIDATION)]
    assert losses(train=cast[0], validation=cast[1]) == losses()


def test_weights_must_exist_before_a_run():
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(InvalidInputError, match=r"'0\.weight' is that of a lazy module"):
        run(model=lazy)
    lazy(torch.as_tensor(TRAIN[0][:1]))
    assert np.isfinite(losses(model=lazy)).all()
    with pytest.raises(InvalidInputError, match=r"'0\.weight' is on the meta device"):
        run(model=network().to("meta"))


def test_which_data_is_empty_is_said():
    none = tuple(part[:0] for part in VALIDATION)
    with pytest.raises(InvalidInputError, match=r"^in the validation data: data must hold samples"):
        run(validation=none)


def test_frames_are_arrays():
    pandas = pytest.importorskip("pandas")
    frames = [(pandas.DataFrame(x), pandas.Series(y)) for x, y in (TRAIN, VALIDATION)]
    assert losses(train=frames[0], validation=frames[1]) == losses()


def test_arrays_that_must_not_be_written_to_are_read():
    read_only = [tuple(part.copy() for part in pair) for pair in (TRAIN, VALIDATION)]
    for part in (part for pair in read_only for part in pair):
        part.flags.writeable = False
    assert losses(train=read_only[0], validation=read_only[1]) == losses()


def test_lists_are_arrays():
    lists = [(x.tolist(), y.tolist()) for x, y in (TRAIN, VALIDATION)]
    assert losses(train=lists[0], validation=lists[1]) == losses()


def test_float_targets_stay_floats():
    pairs = [(x, y[:, None].astype(np.float64)) for x, y in (TRAIN, VALIDATION)]
    model = nn.Sequential(nn.Linear(6, 1))
    loss = nn.functional.binary_cross_entropy_with_logits
    assert np.isfinite(losses(model=model, loss=loss, train=pairs[0], validation=pairs[1])).all()


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ((TRAIN[0], TRAIN[1][:-3]), r"same length, but have the shapes \(200, 6\) and \(197,\)"),
        ((TRAIN[0][:0], TRAIN[1][:0]), "empty"),
        ((*TRAIN, np.ones(199)), r"same length, but have the shapes .* and \(199,\)"),
        ((*TRAIN, np.ones(200), np.ones(200)), "must be a pair .* got 4 arrays"),
        ((TRAIN[0],), "got 1 arrays"),
        ((TRAIN[0], [["a"]] * 200), "`y` must hold numbers"),
        ((None, TRAIN[1]), "`x` must hold numbers, but got NoneType"),
        ((TRAIN[0], np.float64(3)), "same length"),
        (iter(()), "a stream has no epochs to divide"),
    ],
)
def test_what_does_not_fit_together_is_said_at_the_call(train, said):
    model = network()
    before = model[0].weight.detach().clone()
    with pytest.raises(InvalidInputError, match=said):
        run(model=model, train=train)
    assert torch.equal(model[0].weight, before)


# Validation


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*(torch.tensor(part) for part in VALIDATION), strict=True))


def test_a_stream_that_begins_anew_validates_as_its_samples_do():
    assert losses(validation=Stream()) == pytest.approx(losses(), rel=1e-6)


def test_a_generator_cannot_validate_twice():
    with pytest.raises(InvalidInputError, match="ends after one pass"):
        run(validation=(pair for pair in zip(*VALIDATION, strict=True)))

    class Once(IterableDataset):
        def __init__(self):
            self.left = iter(Stream())

        def __iter__(self):
            return self.left

    with pytest.raises(InvalidInputError, match="at least one batch each time"):
        run(validation=DataLoader(Once(), batch_size=30))


@pytest.mark.parametrize("form", ["dict", "tuple", "nested"])
def test_nested_targets_are_weighed_by_samples(form):
    """120 samples in batches of 50: the last one has 20."""
    y = torch.tensor(VALIDATION[1])

    def shaped(labels):
        return {"dict": {"a": labels}, "tuple": (labels, labels), "nested": [{"a": (labels,)}]}[
            form
        ]

    class Shaped(TensorDataset):
        def __getitem__(self, i):
            x, label = super().__getitem__(i)
            return x, shaped(label)

    def loss(outputs, targets):
        while not isinstance(targets, torch.Tensor):
            targets = targets["a"] if isinstance(targets, dict) else targets[0]
        return LOSS(outputs, targets)

    datasets = [Shaped(*(torch.tensor(part) for part in pair)) for pair in (TRAIN, VALIDATION)]
    model = network()
    history = run(
        model=model, loss=loss, train=datasets[0], epochs=1, policy="constant",
        validation=DataLoader(datasets[1], batch_size=50),
    )  # fmt: skip
    with torch.no_grad():
        right = float(LOSS(model(torch.tensor(VALIDATION[0])), y))
    assert history.history["val_loss"][-1] == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("returned", [None, 0.5, [0.5], {"val_loss": "small"}, {}])
def test_what_a_validation_function_returns_is_said_before_training(returned):
    model = network()
    with pytest.raises(InvalidInputError):
        run(model=model, validation=lambda: returned)
    controller = Controller(model, torch.optim.Adam(model.parameters()), epochs=2)
    with pytest.raises(InvalidInputError):
        controller.after_epoch(returned)


def test_nan_in_the_data_is_named_by_its_row():
    x = VALIDATION[0].copy()
    x[17, 3] = np.nan
    with pytest.raises(InvalidInputError, match=r"validation_data holds NaN .* row 17"):
        run(validation=(x, VALIDATION[1]))
    x = TRAIN[0].copy()
    x[5, 0] = np.inf
    model = network()
    before = model[0].weight.detach().clone()
    with pytest.raises(DivergedError, match=r"train_data holds NaN .* row 5"):
        run(model=model, train=(x, TRAIN[1]), epochs=12)
    assert torch.equal(model[0].weight, before)


def test_weights_that_became_nan_are_not_handed_back():
    """The loss leaves NaN out, the gradient does not."""

    def forgiving(outputs, y):
        return LOSS(outputs, y, reduction="none").nan_to_num().mean()

    x = TRAIN[0].copy()
    x[5, 0] = np.nan
    model = network()
    with pytest.raises(DivergedError, match="row 5"):
        run(model=model, loss=forgiving, train=(x, TRAIN[1]), epochs=12)
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


# Names, optimizers, schedulers


@pytest.mark.parametrize("name", ["loss", "spread", "steps"])
def test_metrics_may_not_be_called_like_what_a_run_reports(name):
    def metric(outputs, y):
        return 0.0

    metric.__name__ = name
    with pytest.raises(InvalidInputError, match=f"names of their own, but got '{name}'"):
        run(metrics=[metric])


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(InvalidInputError, match="'accuracy' twice"):
        run(metrics=["accuracy", "accuracy"])


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(InvalidInputError, match="must hold parameters of the model"):
        run(optimizer=torch.optim.SGD(network().parameters(), 0.1))


def test_an_optimizer_of_some_of_the_model_and_of_the_loss_is_taken():
    model, scale = network(), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model[2].parameters(), scale], 0.1)
    before = model[0].weight.detach().clone()
    run(model=model, optimizer=optimizer, loss=lambda z, y: LOSS(z * scale, y))
    assert torch.equal(model[0].weight, before)
    assert scale != 1


def test_optimizers_that_evaluate_the_loss_themselves_are_given_a_closure():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    history = run(
        model=model, optimizer=optimizer, policy="constant", epochs=3, batch_size=200
    ).history
    assert history["loss"] == sorted(history["loss"], reverse=True)
    assert history["loss"][-1] < history["loss"][0] - 0.05


class EveryStep(torch.optim.lr_scheduler.OneCycleLR):
    """A user's own kind of a schedule that counts batches."""


def test_schedules_that_count_batches_are_known_by_their_class():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = EveryStep(optimizer, 0.2, total_steps=14)
    rates = run(model=model, optimizer=optimizer, scheduler=scheduler, policy="constant").history[
        "learning_rate"
    ]
    assert scheduler.last_epoch == 14  # seven batches an epoch
    assert rates[-1] == pytest.approx(scheduler.get_last_lr()[0])


def test_a_warm_up_from_zero_is_a_schedule_like_another():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 4)
    history = run(
        model=model, optimizer=optimizer, scheduler=scheduler, policy="constant", epochs=3
    ).history
    assert history["learning_rate"] == pytest.approx([0.1, 0.2, 0.3])


def test_a_train_step_that_sets_the_rate_is_noticed():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(batch):
        optimizer.param_groups[0]["lr"] = 0.017
        optimizer.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(InvalidInputError, match=r"one owner, .* it is 0\.017"):
        run(model=model, optimizer=optimizer, train_step=step)
    rates = run(model=model, optimizer=optimizer, train_step=step, policy="constant").history[
        "learning_rate"
    ]
    assert rates == [0.017, 0.017]


def test_layers_may_be_unfrozen_while_training():
    model = network()
    optimizer = torch.optim.Adam(model[2].parameters(), 1e-3)
    steps = []

    def step(batch):
        steps.append(len(steps))
        if steps[-1] == 9:
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 1e-4})
        optimizer.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    run(model=model, optimizer=optimizer, train_step=step, policy="bold", epochs=4)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len(rates) == 2
    assert rates[1] < rates[0]


@pytest.mark.parametrize("policy", ["constant", "default"])
def test_buffers_may_grow(policy):
    class Logged(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()
            self.register_buffer("means", torch.zeros(0))

        def forward(self, x):
            if self.training:
                self.means = torch.cat([self.means, x.mean().detach().reshape(1)])
            return self.inner(x)

    model = Logged()
    history = run(model=model, policy=policy, epochs=2)
    if policy == "constant":
        assert len(model.means) == 14
    assert np.isfinite(history.history["val_loss"]).all()


def test_samplers_are_told_of_the_epoch():
    data = TensorDataset(torch.arange(60.0).repeat(6, 1).T.contiguous(), torch.zeros(60).long())
    seen = []

    def step(batch):
        seen.extend(batch[0][:, 0].tolist())
        return torch.zeros(())

    sampler = DistributedSampler(data, num_replicas=1, rank=0, seed=3)
    loader = DataLoader(data, batch_size=20, sampler=sampler)
    run(train=loader, train_step=step, policy="constant", epochs=2)
    expected = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected.extend(float(i) for i in sampler)
    assert seen == expected


def test_a_last_batch_of_one_sample_joins_the_one_before_where_it_would_fail():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    train = TRAIN[0][:65], TRAIN[1][:65]  # two batches of 32, and one sample
    history = run(model=model, train=train, policy="constant", epochs=2)
    assert model[1].num_batches_tracked == 4
    assert history.epoch == [0, 1]
