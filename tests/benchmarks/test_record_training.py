"""The recorder trains and attacks as PyTorch does."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.recorded.networks import Network, network
from benchmarks.recorded.training import Optimizer, evaluate, fgsm_accuracy, orders, train_epoch


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
