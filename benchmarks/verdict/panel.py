"""The panel: networks, and what is put around them to look robust."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.verdict.data import Images
from benchmarks.verdict.networks import Recipe, Winners, trained


@dataclass(frozen=True)
class Pair:
    """A model and a radius.

    Attributes:
        name: Of the model.
        eps: The radius.
        model: As it is served.
        honest: Whether nothing in it asks for doubt: its gradients are those of what it computes,
            do not vanish, and it repeats itself.
        differentiable: Whether attacks by gradient should find as much as the reference does.
        adaptive: Models to attack in its place, each for what its defence hides.
    """

    name: str
    eps: float
    model: nn.Module
    honest: bool = True
    differentiable: bool = True
    adaptive: tuple[nn.Module, ...] = ()


class Then(nn.Module):
    """A function before or after a network."""

    def __init__(
        self,
        inner: nn.Module,
        *,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        """The network between the functions."""
        return self.after(self.inner(self.before(x)))


class Mean(nn.Module):
    """An ensemble, of logits or of probabilities."""

    def __init__(self, parts: list[nn.Module], *, probabilities: bool) -> None:
        super().__init__()
        self.parts, self.probabilities = nn.ModuleList(parts), probabilities

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the networks."""
        outputs = torch.stack([part(x) for part in self.parts])
        return outputs.softmax(2).mean(0) if self.probabilities else outputs.mean(0)


class _Gradient(torch.autograd.Function):
    """The identity, whose gradient is something else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rule = rule
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.rule(grads[0]), None


def with_gradient(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The identity with a gradient of its own."""
    return lambda x: _Gradient.apply(x, rule)


def rounded(levels: int, *, slope: float | None = None) -> Callable[[Tensor], Tensor]:
    """Inputs at so many levels; the gradient is 0, of the identity (slope 0) or of a steep step."""

    def function(x: Tensor) -> Tensor:
        hard = (x * (levels - 1)).round() / (levels - 1)
        if slope is None:
            return hard
        soft = x if not slope else torch.sigmoid(slope * (x - 0.5))
        return soft + (hard - soft).detach()

    return function


def noise_of(x: Tensor) -> Tensor:
    """Numbers within -1 and 1 that are a function of the input, and look random."""
    place = torch.arange(x[0].numel(), dtype=x.dtype).view_as(x[0])
    total = x.flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))
    seed = (12.9898 * x + 78.233 * place + 37.719 * total).detach()
    return 2 * torch.frac(torch.sin(seed) * 43758.5453).abs() - 1


def hashed(size: float) -> Callable[[Tensor], Tensor]:
    """Inputs with noise that is a function of them."""
    return lambda x: (x + size * noise_of(x)).clamp(0, 1)


def thermometer(x: Tensor) -> Tensor:
    """Which of ten levels an input exceeds, averaged: inputs rounded, without any gradient."""
    levels = torch.linspace(0, 0.9, 10).view(-1, *[1] * x.ndim)
    return (x.detach()[None] > levels).float().mean(0)


def shattered(x: Tensor) -> Tensor:
    """Inputs with a ripple so steep that gradients point anywhere."""
    return x + 0.02 * torch.sin(300 * x)


def one_hot(z: Tensor) -> Tensor:
    """The decision alone, with a gradient that leads nowhere."""
    return nn.functional.one_hot(z.argmax(1), z.shape[1]).float() + 0 * z


class Restless(nn.Module):
    """Dropout, or noise on inputs, that evaluation mode does not switch off."""

    def __init__(self, inner: nn.Module, *, dropout: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.inner, self.dropout, self.noise = inner, dropout, noise

    def forward(self, x: Tensor) -> Tensor:
        """The network, disturbed."""
        x = x + self.noise * torch.randn_like(x) if self.noise else x
        return nn.functional.dropout(self.inner(x), self.dropout) if self.dropout else self.inner(x)


def smooth(model: nn.Module) -> nn.Module:
    """A copy in which k-winners-take-all is ReLU."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_children()):
        if isinstance(module, Winners):
            setattr(twin, name, nn.ReLU())
    return twin


def without_statistics(model: nn.Module) -> nn.Module:
    """A copy that normalises by the batch in hand."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return twin


def hooked(model: nn.Module) -> nn.Module:
    """A copy in a sequence with a hook: inputs are halved before they are seen."""
    twin = nn.Sequential(copy.deepcopy(model), nn.Softmax(1))
    twin.register_forward_pre_hook(lambda _, args: (args[0] * 0.5,))
    return twin


def pairs(images: Images, folder: Path | None) -> Iterator[Pair]:
    """The panel on some images, at radii that fit them."""
    small, middle, large = (0.05, 0.1, 0.2) if images.name == "digits" else (0.1, 0.2, 0.3)
    epochs = 15

    def get(**recipe: Any) -> nn.Module:
        return trained(Recipe(**{"epochs": epochs, **recipe}), images, folder)

    plain, other = get(), get(seed=1)
    yield from (Pair("plain", eps, plain) for eps in (small / 2, small))
    yield from _trained_pairs(get, small, middle, large)
    yield from _link_pairs(plain, small / 2)
    yield Pair("ensemble of logits", small / 2, Mean([plain, other], probabilities=False))
    yield Pair("ensemble of probabilities", small / 2, Mean([plain, other], probabilities=True))
    robust = get(eps=middle, steps=7, epochs=2 * epochs)
    for name, inner, eps in (("plain", plain, small), ("PGD", robust, middle)):
        yield from _defended(name, inner, eps)
    for kept in (0.1, 0.2):
        model = get(kept=kept)
        yield Pair(f"k-winners, {kept:g}", small / 2, model, False, False, (smooth(model),))


def _trained_pairs(
    get: Callable[..., nn.Module], small: float, middle: float, large: float
) -> Iterator[Pair]:
    """Networks that differ in how they were trained."""
    yield Pair("FGSM-trained", small, get(eps=small, steps=1))
    yield Pair("FGSM-trained, overfitted", large, get(eps=large, steps=1, start=False, epochs=30))
    for eps in (middle, large):
        strong = get(eps=eps, steps=7, epochs=30)
        yield from (Pair(f"PGD-trained at {eps:g}", at, strong) for at in (small, eps))
    yield Pair("distilled", small / 2, get(temperature=50.0))
    yield Pair("label-smoothed", small / 2, get(smoothing=0.3))
    normal = get(normalised=True)
    yield Pair("BatchNorm", small / 2, normal)
    yield Pair("BatchNorm without statistics", small / 2, without_statistics(normal), False, False)


def _link_pairs(plain: nn.Module, eps: float) -> Iterator[Pair]:
    """One network, returned in every way."""

    def form(name: str, model: nn.Module, **more: Any) -> Pair:
        return Pair(f"as {name}", eps, model, **more)

    yield form("Softmax layer", nn.Sequential(plain, nn.Softmax(1)))
    yield form("softmax in forward", Then(plain, after=lambda z: z.softmax(1)))
    yield form("LogSoftmax layer", nn.Sequential(plain, nn.LogSoftmax(1)))
    yield form("log-softmax in forward", Then(plain, after=lambda z: z.log_softmax(1)))
    yield form("logits x .001", Then(plain, after=lambda z: 1e-3 * z))
    yield form("logits x 1e6", Then(plain, after=lambda z: 1e6 * z))
    yield form("bfloat16", copy.deepcopy(plain).bfloat16())
    yield form("scaled inputs", Then(plain, before=lambda x: (2 * x - 1 + 1) / 2))
    yield form("a hook before", hooked(plain))


def _defended(name: str, inner: nn.Module, eps: float) -> Iterator[Pair]:
    """Defences around one network, each beside what it hides."""

    def defence(what: str, model: nn.Module, *hidden: nn.Module) -> Pair:
        return Pair(f"{name}: {what}", eps, model, False, False, hidden or (inner,))

    for bits in (1, 3):
        straight = Then(inner, before=rounded(2**bits, slope=0.0))
        for kind, slope in (("no gradient", None), ("straight through", 0.0), ("steep", 40.0)):
            rounding = Then(inner, before=rounded(2**bits, slope=slope))
            yield defence(f"{bits}-bit rounding, {kind}", rounding, straight, inner)
    yield defence("steep ripple", Then(inner, before=shattered))
    flip = Then(inner, before=with_gradient(lambda g: -g))
    yield defence("reversed gradients", flip)
    chance = Then(inner, before=with_gradient(torch.randn_like))
    yield defence("random gradients", chance)
    tanh = defence("tanh of logits", Then(inner, after=lambda z: torch.tanh(z / 2)))
    yield replace(tanh, differentiable=True)  # though float32 ends at 1
    yield defence("rounded logits", Then(inner, after=torch.round))
    yield defence("one-hot decisions", Then(inner, after=one_hot))
    for size in (0.1, 0.3):
        yield defence(f"noise by hash, {size:g}", Then(inner, before=hashed(size)))
    yield defence("thermometer", Then(inner, before=thermometer))
    yield defence("dropout left on", Restless(inner, dropout=0.5))
    yield defence("noise left on", Restless(inner, noise=0.2))
