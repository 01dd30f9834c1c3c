"""What a model withstands by other means: AutoAttack, and attacks on what a defence hides."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from benchmarks.verdict.panel import Pair
from rlhf_tune.errors import MissingExtraError

DRAWS = 10  # of a model that is random: a sample must be right in every one
_BATCH = 500


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor, draws: int = 1) -> Tensor:
    """Mask [N] of the samples that a model gets right, each time."""
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    masks = [
        torch.cat([model(part.to(dtype)).float().argmax(1) for part in x.split(_BATCH)]) == y
        for _ in range(draws)
    ]
    return torch.stack(masks).all(0)


def by_autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, queries: int) -> Tensor:
    """Adversarial inputs by APGD-CE, APGD-T and Square (Croce and Hein 2020, arXiv:2003.01690).

    Raises:
        MissingExtraError: If AutoAttack is not installed.
    """
    try:
        from pyautoattack import AutoAttack
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            "`pyautoattack` must be installed for this; run: pip install 'rlhf-tune[benchmarks]'"
        ) from exc
    attacks = ["apgd-ce", "apgd-t", "square"]
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    auto = AutoAttack(_InFloat(model), attacks=attacks, eps=eps, version="custom", seed=0)
    auto.verbose = False
    auto.apgd.n_restarts = 1
    auto.square.n_queries = queries
    found, _ = auto.run_standard_evaluation(x, y, batch_size=_BATCH)
    box = x - eps, x + eps
    return torch.minimum(torch.maximum(found, box[0]), box[1]).clamp(0, 1)


class _InFloat(nn.Module):
    """A model that takes and returns single precision, as AutoAttack does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.dtype = next((p.dtype for p in model.parameters()), torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x.to(self.dtype)).float()
        return outputs + 0 * x.flatten(1).sum(1, keepdim=True)  # a gradient, if only of 0


def survivors(pair: Pair, x: Tensor, y: Tensor, queries: int = 5000) -> dict[str, Tensor]:
    """Masks [N] of what stays right: under AutoAttack on the model, and under all attacks.

    Attacks on a network in place of the model count where their inputs fool the model itself.
    """
    draws = 1 if pair.honest or pair.differentiable else DRAWS
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alive = right(pair.model, x, y, draws)
        direct = alive & right(pair.model, by_autoattack(pair.model, x, y, pair.eps, queries), y)
        every = direct.clone()
        for hidden in pair.adaptive:
            if every.any():
                moved = by_autoattack(hidden, x[every], y[every], pair.eps, queries)
                every[every.clone()] &= right(pair.model, moved, y[every], draws)
    return {"autoattack": direct, "all": every}
