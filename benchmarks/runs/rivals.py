"""Optimizers of others that no package here brings in a form that a run can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` for weight matrices, AdamW for all else, as its authors use it.

    Source: Jordan et al. (2024), kellerjordan.github.io/posts/muon. Its update is scaled as that of
    AdamW (`match_rms_adamw`), so that one rate serves both.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        """Both at one rate."""
        weights = list(parameters)
        matrices = [p for p in weights if p.ndim == 2]
        rest = [p for p in weights if p.ndim != 2]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self._parts.append(torch.optim.AdamW(rest, lr))
        super().__init__(weights, {"lr": lr})
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        for part in self._parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One of each."""
        for part in self._parts:
            part.step()


class MoMo(torch.optim.Optimizer):
    """Momentum with a model-based rate: the given one is only the largest it takes.

    Source: Schaipp et al. (2024), arXiv:2305.07583, algorithm 1, with beta = .9 and the lower bound
    0 of the loss.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, beta: float = 0.9) -> None:
        """Nothing is averaged yet."""
        super().__init__(parameters, {"lr": lr, "beta": beta})

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """A step; the closure evaluates the loss and its gradients."""
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            self._step(float(loss.detach()))
        return loss

    def _step(self, loss: float) -> None:
        group = self.param_groups[0]
        beta, weights = group["beta"], [p for p in group["params"] if p.grad is not None]
        slope = sum(float((p.grad * p).sum()) for p in weights)
        mean = self.state[weights[0]]
        mean["loss"] = _averaged(mean.get("loss"), loss, beta)
        mean["slope"] = _averaged(mean.get("slope"), slope, beta)
        for p in weights:
            state = self.state[p]
            state["direction"] = _averaged(state.get("direction"), p.grad, beta).clone()
        directions = [self.state[p]["direction"] for p in weights]
        model = mean["loss"] - mean["slope"]
        model += sum(float((d * p).sum()) for d, p in zip(directions, weights, strict=True))
        size = sum(float(d.square().sum()) for d in directions)
        rate = min(float(group["lr"]), max(model, 0.0) / size) if size > 0 else 0.0
        for d, p in zip(directions, weights, strict=True):
            p.sub_(d, alpha=rate)


def _averaged(old: Any, new: Any, beta: float) -> Any:
    return new if old is None else beta * old + (1 - beta) * new
