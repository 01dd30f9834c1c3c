"""Small networks, trained on clean or on attacked images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.verdict.data import Images
from rlhf_tune import files

F = nn.functional

_LARGE = 0.25


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        eps: Radius of the attack on training images; 0 is none. From .25 on it is approached over
            half of the epochs, without which training stays at chance.
        steps: Of that attack; 1 is FGSM.
        start: Whether it starts at random.
        epochs: On digits; a fifth of them on MNIST.
        smoothing: Of labels.
        temperature: Of distillation from a network trained as usual; 0 is none.
        normalised: Whether there is batch normalisation.
        kept: Share of units that k-winners-take-all keeps; 0 has ReLU.
        seed: Of weights and order.
    """

    eps: float = 0.0
    steps: int = 0
    start: bool = True
    epochs: int = 15
    smoothing: float = 0.0
    temperature: float = 0.0
    normalised: bool = False
    kept: float = 0.0
    seed: int = 0


class Winners(nn.Module):
    """k-winners-take-all (Xiao, Zhong and Zheng 2020, arXiv:1905.10510)."""

    def __init__(self, kept: float) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        """The largest units as they are, 0 for the others."""
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.kept * flat.shape[1])), dim=1).values[:, -1:]
        return x * (flat >= least).view_as(x)


def network(recipe: Recipe, side: int) -> nn.Sequential:
    """A convolutional network of images [B, 1, side, side]."""
    torch.manual_seed(recipe.seed)

    def unit(channels: int) -> list[nn.Module]:
        rule = Winners(recipe.kept) if recipe.kept else nn.ReLU()
        return [*([nn.BatchNorm2d(channels)] if recipe.normalised else []), rule]

    stride = 1 if side < 10 else 2
    out = math.ceil(math.ceil(side / stride) / 2)
    last = Winners(recipe.kept) if recipe.kept else nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride, padding=1), *unit(16),
        nn.Conv2d(16, 32, 3, 2, padding=1), *unit(32),
        nn.Flatten(), nn.Linear(32 * out * out, 64), last, nn.Linear(64, 10),
    )  # fmt: skip


def trained(recipe: Recipe, images: Images, folder: Path | None = None) -> nn.Sequential:
    """A network by its recipe; from `folder` where it was trained before."""
    model = network(recipe, images.x.shape[-1])
    words = "-".join(str(value) for value in vars(recipe).values())
    file = None if folder is None else folder / f"{images.name}-{words}.safetensors"
    if file is not None and file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    teacher = None
    if recipe.temperature:
        teacher = trained(Recipe(epochs=recipe.epochs), images, folder)
    _train(model, recipe, images, _loss(recipe, teacher))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(file) as partial:
            save_file(model.state_dict(), partial)
    return model.eval()


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _loss(recipe: Recipe, teacher: nn.Module | None) -> Loss:
    """Of logits, labels and inputs."""
    if teacher is None:
        return lambda z, y, _: F.cross_entropy(z, y, label_smoothing=recipe.smoothing)
    known, heat = teacher, recipe.temperature

    def distilled(z: Tensor, _: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            soft = (known(x) / heat).softmax(1)
        return -(soft * (z / heat).log_softmax(1)).sum(1).mean() * heat

    return distilled


def _train(model: nn.Module, recipe: Recipe, images: Images, loss: Loss) -> None:
    epochs = recipe.epochs if images.name == "digits" else max(2, recipe.epochs // 5)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(epochs):
        model.train()
        ramp = 1.0 if recipe.eps < _LARGE else min(1.0, (epoch + 1) / max(1, epochs // 2))
        now = replace(recipe, eps=ramp * recipe.eps)
        for rows in torch.randperm(len(images.x)).split(64):
            x, y = images.x[rows], images.y[rows]
            if recipe.eps:
                x = attacked(model, x, y, now)
            optimizer.zero_grad()
            loss(model(x), y, x).backward()
            optimizer.step()


def attacked(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    """Training images under the recipe's attack."""
    low, high = (x - recipe.eps).clamp(0, 1), (x + recipe.eps).clamp(0, 1)
    at = x + recipe.start * recipe.eps * (2 * torch.rand_like(x) - 1)
    stride = recipe.eps if recipe.steps == 1 else 2.5 * recipe.eps / recipe.steps
    for _ in range(recipe.steps):
        leaf = at.clamp(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
        at = (leaf + stride * gradient.sign()).clamp(low, high).detach()
    return at
