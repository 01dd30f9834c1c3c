"""The recorder trains as PyTorch does, and its tables are whole."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import record
from benchmarks.recorded import sequences as seq
from benchmarks.recorded import synthetic as syn
from benchmarks.recorded import tasks
from benchmarks.recorded.data import Source, mislabelled, prepare
from benchmarks.recorded.networks import Network, network
from benchmarks.recorded.sources import SOURCES
from benchmarks.recorded.training import Optimizer, evaluate, fgsm_accuracy, orders, train_epoch

GRID = record.Grid(
    learning_rates=(1e-3, 1e-1), batch_sizes=(64, 256), seeds=(0, 1), epochs=2, fgsm_epochs=(2,)
)
JOB = record.Job("wine", "mlp64", "adam")


@pytest.fixture(autouse=True)
def one_thread():
    """Batches this small only wait for other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ChannelsLast(nn.Module):
    """Flattens [B, channels, h, w] place by place, as the batched network does."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class Positions(nn.Module):
    """Adds a learned vector to each step."""

    def __init__(self, position):
        super().__init__()
        self.position = nn.Parameter(position)

    def forward(self, h):
        return h + self.position


class MeanOverSteps(nn.Module):
    def forward(self, h):
        return h.mean(dim=1)


def with_parameters(module, weight, bias, prefix=""):
    """Copies ours, of a dense layer (inputs first), a convolution or a norm, into the module."""
    own = dict(module.named_parameters())
    own[f"{prefix}weight"].data = weight.T.reshape(own[f"{prefix}weight"].shape).clone()
    own[f"{prefix}bias"].data = bias.flatten().clone()
    return module


def dense(weight, bias):
    return with_parameters(nn.Linear(*weight.shape), weight, bias)


def norm(scale, shift):
    return with_parameters(nn.LayerNorm(scale.shape[1]), scale, shift)


def interleaved(layers):
    """The layers with ReLUs between them."""
    return [module for layer in layers for module in (layer, nn.ReLU())][:-1]


def ordinary_mlp(layers):
    return nn.Sequential(*interleaved([dense(*layer) for layer in layers]))


def ordinary_normed_mlp(layers):
    hidden = [
        nn.Sequential(dense(*layer), norm(*scaling))
        for layer, scaling in zip(layers[:-1:2], layers[1::2], strict=True)
    ]
    return nn.Sequential(*interleaved([*hidden, dense(*layers[-1])]))


def ordinary_cnn(layers, side=7):
    convolutions = [
        with_parameters(
            nn.Conv2d(len(weight) // 9, weight.shape[1], 3, stride=2, padding=1), weight, bias
        )
        for weight, bias in layers[:-1]
    ]
    images = nn.Unflatten(1, (1, side, side))
    stack = interleaved([*convolutions, ChannelsLast()])
    return nn.Sequential(images, *stack, dense(*layers[-1]))


def ordinary_transformer(layers, steps=7):
    embed, (position,), norm1, qkv, out, norm2, up, down, norm3, head = layers
    width = position.shape[1]
    block = nn.TransformerEncoderLayer(
        width, 1, 2 * width, dropout=0, batch_first=True, norm_first=True
    )
    with_parameters(block.self_attn, *qkv, prefix="in_proj_")
    with_parameters(block.self_attn.out_proj, *out)
    for name, layer in (("norm1", norm1), ("norm2", norm2), ("linear1", up), ("linear2", down)):
        with_parameters(getattr(block, name), *layer)
    return nn.Sequential(
        nn.Unflatten(1, (steps, -1)),
        dense(*embed),
        Positions(position.clone()),
        block,
        norm(*norm3),
        MeanOverSteps(),
        dense(*head),
    )


ORDINARY = {
    "linear": ordinary_mlp,
    "mlp64": ordinary_mlp,
    "mlp32x32": ordinary_mlp,
    "mlp32x32x32": ordinary_mlp,
    "norm32x32": ordinary_normed_mlp,
    "cnn": ordinary_cnn,
    "cnn2": ordinary_cnn,
    "transformer": ordinary_transformer,
}


def ordinary_model(architecture: str, net: Network, parameters: torch.Tensor) -> nn.Sequential:
    """The model of one copy, built from PyTorch's layers with the same parameters [P]."""
    layers = [tuple(array[0] for array in layer) for layer in net.unpacked(parameters[None])]
    return ORDINARY[architecture](layers).to(parameters.dtype)


def trained(model: nn.Sequential, name: str, rate: float, x, y, batches) -> list[float]:
    """The ordinary loop; returns the loss of each batch."""
    if name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    elif name == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    losses = []
    for rows in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("architecture", ORDINARY)
def test_every_copy_trains_like_an_ordinary_model(architecture, optimizer):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(80, 49, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (80,), generator=generator)
    rates = torch.tensor([1e-4, 3e-3, 1e-1], dtype=torch.float64)
    net = network(architecture, 49, 3, 7)
    parameters = net.initial(3, generator).double()
    batches = orders(3, 80, 160, generator).view(3, -1, 16).transpose(0, 1)
    models = [ordinary_model(architecture, net, row) for row in parameters]
    state = Optimizer(optimizer, parameters, rates)
    scores = train_epoch(net, parameters, state, x, y, batches)
    evaluated = evaluate(net, parameters, x, y)

    for copy, model in enumerate(models):
        losses = trained(model, optimizer, float(rates[copy]), x, y, batches[:, copy])
        assert scores.loss[copy].item() == pytest.approx(np.mean(losses), rel=1e-9)
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y).item()
        assert evaluated.loss[copy].item() == pytest.approx(loss, rel=1e-9)
        accuracy = (logits.argmax(1) == y).double().mean().item()
        assert evaluated.accuracy[copy].item() == pytest.approx(accuracy, abs=1e-6)
        torch.testing.assert_close(net.logits(parameters, x[None])[copy], logits)
    assert scores.loss[1] != scores.loss[0]


def test_fgsm_accuracy_is_that_of_the_attack_written_out():
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(60, 5, generator=generator)
    y = torch.randint(0, 3, (60,), generator=generator)
    net = network("mlp64", 5, 3)
    parameters = net.initial(2, generator) * 3
    eps, low, high = torch.full((5,), 0.05), torch.zeros(5), torch.ones(5)
    measured = fgsm_accuracy(net, parameters, x, y, eps, low, high)
    for copy, row in enumerate(parameters):
        model = ordinary_model("mlp64", net, row)
        robust = model(x).argmax(1) == y
        for loss in (nn.functional.cross_entropy, worst_margin):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(model(leaf), y), leaf)
            attacked = (x + 0.05 * gradient.sign()).clamp(0, 1)
            robust &= model(attacked).argmax(1) == y
        assert measured[copy].item() == pytest.approx(robust.float().mean().item())
    clean = evaluate(net, parameters, x, y).accuracy
    assert (measured < clean).all()


def worst_margin(logits, y):
    wrong = logits.masked_fill(nn.functional.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return (wrong.amax(1) - logits.gather(1, y[:, None])[:, 0]).sum()


def test_orders_pass_over_all_samples():
    order = orders(2, 10, 25, torch.Generator().manual_seed(0))
    assert order.shape == (2, 25)
    for row in order:
        assert sorted(row[:10]) == sorted(row[10:20]) == list(range(10))
    assert not torch.equal(order[0], order[1])


def test_a_diverged_run_is_flagged():
    grid = record.Grid((1e-3, 1e30), (256,), (0,), epochs=2, fgsm_epochs=(2,))
    tables = record.train_grid(record.Job("wine", "mlp64", "sgd"), prepare(SOURCES["wine"]), grid)
    assert np.isinf(tables["val_loss"][0, 1, 0, -1])
    assert tables["val_accuracy"][0, 1, 0, -1] == tables["fgsm_accuracy"][0, 1, 0, -1] == 0
    assert np.isfinite(tables["val_loss"][0, 0]).all()


def test_recording_is_deterministic_resumable_and_loadable(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    other = record.Job("iris", "linear", "sgd")
    assert record.record([JOB, other], first, GRID) == 2
    assert record.record([JOB], second, GRID) == 1
    assert record.record([JOB, other], second, GRID) == 1  # goes on where it stopped
    for job in (JOB, other):
        name = f"{job.name}.npz"
        assert (first / name).read_bytes() == (second / name).read_bytes()
    (second / f"{other.name}.npz").write_bytes(b"damaged")
    assert record.record([JOB, other], second, GRID) == 1

    (first / "split.json").write_text(json.dumps({"train": ["wine"], "test": ["iris"]}))
    (task,) = tasks.load("train", first)
    assert (task.name, task.n_classes, task.optimizer) == ("wine-mlp64-adam", 3, "adam")
    assert task.val_loss.shape == (2, 2, 2, 2)
    assert task.fgsm_accuracy.shape == (2, 2, 2, 1)
    assert (task.val_loss[0] != task.val_loss[1]).all()  # seeds are runs of their own


def test_tables_of_two_grids_do_not_mix(tmp_path):
    record.record([record.Job("iris", "linear", "sgd")], tmp_path, GRID)
    with pytest.raises(ValueError, match="one grid"):
        record.record([JOB], tmp_path, record.Grid())


def test_a_file_source_says_how_to_give_the_file():
    with pytest.raises(ValueError, match="--data-dir"):
        prepare(SOURCES["mnist"])


def test_a_table_file_is_encoded(tmp_path):
    rows = [f"{i},{'red' if i % 2 else 'blue'},{'yes' if i > 9 else 'no'}" for i in range(20)]
    path = tmp_path / "german_credit.csv"
    path.write_text("\n".join(["size,colour,class-label", *rows, ",blue,no"]))
    data = prepare(SOURCES["german_credit"], tmp_path)
    assert data.x_train.shape == (12, 3)  # the size and a column for each colour
    assert data.n_classes == 2
    assert len(data.y_val) == 9


def test_the_command_line_records_what_was_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "Grid", lambda: GRID)
    assert record.main(["--only", "iris-linear-sgd*", "mnist-cnn*", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 recorded" in out
    assert "mnist" in out
    assert [p.name for p in tmp_path.glob("*.npz")] == ["iris-linear-sgd.npz"]
    assert record.main(["--only", "nothing"]) == 2


def test_inputs_are_scaled_and_images_kept_whole():
    digits = prepare(SOURCES["digits_even"])
    assert digits.x_train.shape[1] == 64
    assert (digits.scale == 1).all()
    cancer = prepare(SOURCES["breast_cancer"])
    assert cancer.x_train.min() == 0
    assert cancer.x_train.max() == 1
    standardised = (cancer.x_train - cancer.shift) / cancer.scale
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-4)


def test_sequences_are_scaled_as_a_whole():
    data = prepare(SOURCES["tones"])
    assert data.steps == 8
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert len(set(data.shift)) == len(set(data.scale)) == 1
    assert ((data.x_train - data.shift) / data.scale).std() == pytest.approx(1, abs=1e-4)


def test_gain_is_what_the_network_sees_not_the_attack():
    plain, unscaled = (prepare(SOURCES[name]) for name in ("wine", "wine_unscaled"))
    np.testing.assert_array_equal(plain.x_train, unscaled.x_train)
    np.testing.assert_allclose(plain.scale, 10 * unscaled.scale, rtol=1e-6)
    assert plain.eps == unscaled.eps


def test_mislabelled_changes_about_the_share_it_says():
    x, y = syn.teacher(dims=4, hidden=3, n_classes=2)
    same, flipped = mislabelled(lambda: (x, y), 0.4)
    np.testing.assert_array_equal(same, x)
    assert 0.1 < (flipped != y).mean() < 0.3  # half of the draws hit the old label


def test_every_synthetic_problem_has_what_its_recipes_need():
    for name, source in SOURCES.items():
        if source.file is not None:
            continue
        data = prepare(source)
        assert np.isfinite(data.x_train).all(), name
        assert np.bincount(data.y_train).min() >= 5, name
        assert (data.scale > 0).all(), name
        if data.steps is not None:
            assert data.x_train.shape[1] % data.steps == 0, name
        needs_steps = any(r.startswith(("cnn", "transformer")) for r in source.recipes)
        assert not needs_steps or data.steps is not None, name
        assert not any(r.startswith("cnn") for r in source.recipes) or source.side, name


def test_brackets_are_balanced():
    x, depth = seq.brackets(steps=10, n_classes=2)
    move = x.reshape(-1, 10, 2) @ [1, -1]
    height = move.cumsum(axis=1)
    assert (height >= 0).all()
    assert (height[:, -1] == 0).all()
    assert (height.max(axis=1)[depth == 1] > height.max(axis=1)[depth == 0].max()).all()


def test_marks_and_events_by_hand():
    x, label = seq.marked(steps=5, symbols=3)
    tokens = x.reshape(-1, 5, 4)
    assert (tokens[..., 3].sum(axis=1) == 1).all()
    marked = (tokens[..., :3] * tokens[..., 3:]).sum(axis=1)
    np.testing.assert_array_equal(marked.argmax(axis=1), label)
    x, first = seq.events(steps=6, channels=3, noise=0.0)
    at = x.reshape(-1, 6, 3).argmax(axis=1)
    np.testing.assert_array_equal(at.argmin(axis=1), first)


def test_constant_columns_of_tables_are_dropped():
    x = np.column_stack([np.arange(50.0), np.full(50, 3.0)])
    data = prepare(Source("made", lambda: (x, np.arange(50) % 2)))
    assert data.x_train.shape[1] == 1


def test_normalised_regret_by_hand():
    losses = np.array([[[0.2, 0.9], [np.inf, 0.4]], [[0.4, 0.5], [3.0, 0.8]]])
    expected = np.array([[0.0, 0.4 / 0.7], [1.0, 0.3 / 0.7]])  # best cell .3, chance 1
    np.testing.assert_allclose(tasks.normalised_regret(losses, 1.0), expected)
    assert tasks.normalised(losses, 1.0)[0, 0, 0] == pytest.approx(-0.1 / 0.7)


def test_no_family_is_in_two_splits_and_every_source_is_in_one():
    split = tasks.read_split()
    assert list(split) == ["train", "validation", "test"]
    families = [family for part in split.values() for family in part]
    assert len(families) == len(set(families))
    assert set(families) == {source.family for source in SOURCES.values()}


def test_every_committed_table_is_whole_and_in_one_split():
    manifest = json.loads((tasks.TABLES / "manifest.json").read_text())
    files = {path.stem: path for path in tasks.TABLES.glob("*.npz")}
    assert set(files) == set(manifest["tasks"])
    splits = [{task.name for task in tasks.load(split)} for split in tasks.read_split()]
    assert sum(len(names) for names in splits) == len(files)
    assert set().union(*splits) == set(files)
    for name, path in files.items():
        assert record._sha256(path) == manifest["tasks"][name]["sha256"], name
    assert sum(path.stat().st_size for path in files.values()) < 18e6


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_committed_task_can_be_tuned(split):
    for task in tasks.load(split):
        regret = tasks.normalised_regret(task.val_loss[..., -1], task.chance)
        assert regret.shape == (24, 5), task.name
        assert regret.min() == 0, task.name
        assert regret.max() > 0.5, task.name  # some settings are bad
        best = np.minimum(task.val_loss[..., -1], task.chance).mean(axis=0).min()
        assert best < 0.95 * task.chance, task.name  # and some learn something
        assert not np.isnan(task.val_loss).any(), task.name
        clean = task.val_accuracy[..., task.fgsm_epochs - 1]
        assert (task.fgsm_accuracy <= clean + 1e-3).all(), task.name
