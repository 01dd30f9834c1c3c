"""Torch modules as classifiers to be measured, eager or compiled, on any device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_tune.errors import ArtifactError, UnsupportedModelError, require
from rlhf_tune.frameworks import Link, Loss
from rlhf_tune.safety.logits import as_logits, attack_loss

Forward = Callable[[torch.Tensor], Any]

_NUMPY = {
    *(torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
}


@contextmanager
def classifier(model: torch.nn.Module) -> Iterator[TorchClassifier]:
    """Lend a torch module, eager or compiled, on any device, to a measurement.

    Inside, it is in evaluation mode and its parameters are frozen; on leaving, every
    submodule's mode, every `requires_grad` and the random streams are as before, and no `.grad`
    was touched.

    Raises:
        UnsupportedModelError: If `forward` needs other than one argument.
    """
    _check_arguments(model)
    forward, link = _without_link(model)
    with borrowed(model):
        yield TorchClassifier(model, forward, link)


def weights(model: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """The state dict as NumPy arrays; see `Framework.weights`."""
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    return as_arrays(inner.state_dict())


def as_arrays(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Tensors as NumPy arrays, of which bfloat16 and float8 are widened to float32.

    Raises:
        ArtifactError: If a value is not a dense tensor of numbers.
    """
    arrays = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or _is_special(value):
            raise ArtifactError(
                f"weights must be dense tensors, but {name!r} is {type(value).__name__}; "
                f"save model.state_dict() alone"
            )
        plain = value.detach().cpu()
        known = plain.dtype in _NUMPY or plain.is_complex()
        arrays[name] = (plain if known else plain.float()).resolve_conj().resolve_neg().numpy()
    return arrays


def _is_special(tensor: torch.Tensor) -> bool:
    return tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided


class TorchClassifier:
    """A torch module as `rlhf_tune.frameworks.Classifier`."""

    def __init__(self, model: torch.nn.Module, forward: Forward, link: Link | None) -> None:
        self.link = link
        self._forward = forward
        self._model = model
        floats = (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
        self._like = next(floats, torch.empty(0))

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs [B, C] in float64; see `Classifier.outputs`."""
        with torch.no_grad():
            outputs = self._outputs(self._tensor(x)).to("cpu", torch.float64)
        return np.asarray(outputs.numpy())

    def direction(
        self, x: NDArray[Any], own: NDArray[np.bool_], *, loss: Loss, link: Link
    ) -> NDArray[Any]:
        """Sign of each sample's input gradient; see `Classifier.direction`."""
        cleverhans = require("cleverhans.torch.attacks.fast_gradient_method", extra="robustness")
        point = self._tensor(x)
        mask = torch.as_tensor(own, device=point.device)

        def as_two_classes(delta: torch.Tensor) -> torch.Tensor:
            outputs = self._outputs(point + delta.to(point.dtype))
            if not outputs.requires_grad:
                raise UnsupportedModelError(
                    "the outputs must be differentiable in the inputs, but they are detached "
                    "from them; look for .detach(), .data, numpy or rounding in `forward`"
                )
            rise = attack_loss(as_logits(outputs, link, torch), mask, loss, torch)
            # CleverHans takes the mean cross-entropy against class 0. Two classes around zero,
            # times the batch, give each sample exactly the gradient of its own `rise`.
            change = (rise - rise.detach()) * len(rise)
            return torch.stack([-change, change], 1) / 2

        # The attack moves a float32 displacement, since it would cast the inputs themselves.
        moved = cleverhans.fast_gradient_method(
            as_two_classes,
            torch.zeros(point.shape, device=point.device),
            1.0,
            np.inf,
            y=torch.zeros(len(x), dtype=torch.long, device=point.device),
        )
        return np.asarray(moved.detach().cpu().numpy())

    def _outputs(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self._call(x)
        if not isinstance(outputs, torch.Tensor):
            raise UnsupportedModelError(
                f"the model must return one tensor [B, C], but returned {type(outputs).__name__}"
            )
        if outputs.ndim == 1:
            outputs = outputs[:, None]
        if outputs.ndim != 2 or len(outputs) != len(x):
            raise UnsupportedModelError(
                f"the model must return class scores [B, C], "
                f"but returned {tuple(outputs.shape)} for a batch of {len(x)}"
            )
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def _call(self, x: torch.Tensor) -> Any:
        try:
            return self._forward(x)
        except RuntimeError as exc:
            tokens = torch.nn.Embedding | torch.nn.EmbeddingBag
            if any(isinstance(module, tokens) for module in self._model.modules()):
                raise UnsupportedModelError(
                    "the inputs must be numbers that can change a little, "
                    "but this model looks them up in an embedding: tokens cannot be measured"
                ) from exc
            raise

    def _tensor(self, x: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(x).to(self._like.device, self._like.dtype)


@contextmanager
def borrowed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and enabled gradients; undone on leaving.

    Modes are set by attribute: `train` and `eval` may be overridden, or refuse.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    devices = {p.device for p, _ in flags if p.device.type == "cuda"}
    try:
        with (
            torch.random.fork_rng(devices=sorted(device.index for device in devices)),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            for module, _ in modes:
                module.training = False
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _check_arguments(model: torch.nn.Module) -> None:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in kinds and parameter.default is inspect.Parameter.empty
    ]
    if len(needed) > 1:
        raise UnsupportedModelError(
            f"the model must take one input array, but its forward needs {needed}"
        )


def _without_link(model: torch.nn.Module) -> tuple[Forward, Link | None]:
    """The model up to its logits where its last layer shows them; else the model itself."""
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    last = _last(inner)
    if type(last) in (torch.nn.Softmax, torch.nn.Sigmoid):  # a subclass may do otherwise
        return lambda x: _skip_last(inner, x), "logit"
    if type(last) in (torch.nn.Linear, torch.nn.LogSoftmax):
        return model, "logit"
    return model, None


def _is_chain(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward is torch.nn.Sequential.forward
        and len(module) > 0
    )


def _last(module: torch.nn.Module) -> torch.nn.Module:
    while _is_chain(module):
        module = list(module.children())[-1]
    return module


def _skip_last(module: torch.nn.Module, x: torch.Tensor) -> Any:
    if not _is_chain(module):
        return x  # the activation itself
    *layers, last = module.children()
    for layer in layers:
        x = layer(x)
    return _skip_last(last, x)
