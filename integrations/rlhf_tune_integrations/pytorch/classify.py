"""Torch modules as classifiers to be measured, eager or compiled, on any device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_tune.engine import cleverhans, engine
from rlhf_tune.errors import ArtifactError, NoGradientError, RlhfTuneError, UnsupportedModelError
from rlhf_tune.foreign import shortened
from rlhf_tune.frameworks import Link, Loss
from rlhf_tune.safety.logits import as_logits, attack_loss
from rlhf_tune.streams import streams_kept
from rlhf_tune_integrations.pytorch.modules import dtype_of, evaluating

Forward = Callable[[torch.Tensor], Any]

_DETACHED = (
    "the outputs must be differentiable in the inputs, but they are detached from them; "
    "look for .detach(), .data, numpy, rounding or quantised layers in `forward`"
)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

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
        UnsupportedModelError: If `forward` needs other than one argument, or the model has no
            weights yet.
    """
    _check_form(model)
    body, link = _without_link(model)
    with borrowed(model):
        whole = TorchClassifier(model, model, link)
        yield whole if body is None else TorchClassifier(model, body, "logit", whole)


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


def fast_gradient(model_fn: Forward, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
    """Step by 1 along the sign of the gradient of the mean cross-entropy, as CleverHans does.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.

    Args:
        model_fn: Gives logits [B, C] of inputs [B, ...].
        x: Inputs [B, ...], float32.
        y: Labels [B].

    Raises:
        NoGradientError: If the logits do not depend on the inputs.
    """
    x = x.clone().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(model_fn(x), y)
    (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    if gradient is None:
        raise NoGradientError(_DETACHED)
    return x + gradient.sign()


class TorchClassifier:
    """A torch module as `rlhf_tune.frameworks.Classifier`."""

    def __init__(
        self,
        model: torch.nn.Module,
        forward: Forward,
        link: Link | None,
        whole: TorchClassifier | None = None,
    ) -> None:
        self.link, self.whole = link, whole
        self._forward = forward
        self._model = model
        tensors: list[torch.Tensor] = [*model.parameters()] or [*model.buffers()]
        self._device = tensors[0].device if tensors else torch.device("cpu")
        self._dtype = dtype_of(tensors)

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs [B, C] in float64; see `Classifier.outputs`."""
        with torch.no_grad():
            outputs = self._outputs(self._tensor(x)).to("cpu", torch.float64)
        return np.asarray(outputs.numpy())

    def direction(
        self,
        x: NDArray[Any],
        own: NDArray[np.bool_],
        *,
        loss: Loss,
        link: Link,
        rival: NDArray[np.bool_] | None = None,
        draws: int = 1,
    ) -> NDArray[Any]:
        """Sign of each sample's input gradient; see `Classifier.direction`."""
        point = self._tensor(x)
        mask = torch.as_tensor(own, device=point.device)
        target = None if rival is None else torch.as_tensor(rival, device=point.device)

        def rise_at(inputs: torch.Tensor) -> torch.Tensor:
            outputs = self._outputs(inputs)
            if not outputs.requires_grad:
                raise NoGradientError(_DETACHED)
            rise: torch.Tensor = attack_loss(
                as_logits(outputs, link, torch), mask, loss, torch, target
            )
            return rise

        def as_two_classes(delta: torch.Tensor) -> torch.Tensor:
            inputs = point + delta.to(point.dtype)
            rise = torch.stack([rise_at(inputs) for _ in range(draws)]).mean(0)
            # The step takes the mean cross-entropy against class 0. Two classes around zero,
            # times the batch, give each sample exactly the gradient of its own `rise`.
            change = (rise - rise.detach()) * len(rise)
            return torch.stack([-change, change], 1) / 2

        try:
            # The attack moves a float32 displacement, since it would cast the inputs themselves.
            moved = self._step(
                as_two_classes,
                torch.zeros(point.shape, device=point.device),
                y=torch.zeros(len(x), dtype=torch.long, device=point.device),
            )
        except AttributeError as exc:  # CleverHans meets a gradient of None
            raise NoGradientError(_DETACHED) from exc
        return np.asarray(moved.detach().cpu().numpy())

    @property
    def engine(self) -> str:
        """Who takes the step; see `Classifier.engine`."""
        return engine()

    @cached_property
    def _step(self) -> Callable[..., torch.Tensor]:
        theirs = cleverhans("cleverhans.torch.attacks.fast_gradient_method")
        if theirs is None:
            return fast_gradient
        return partial(theirs.fast_gradient_method, eps=1.0, norm=np.inf)

    def _outputs(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self._call(x)
        if not isinstance(outputs, torch.Tensor):
            raise UnsupportedModelError(
                f"the model must return one tensor [B, C], but returned "
                f"{type(outputs).__name__}; wrap it in a module that returns the class scores"
            )
        if outputs.ndim < 2:  # squeezed; of a single sample nothing may be left to tell it by
            outputs = outputs.reshape(1, -1) if len(x) == 1 else outputs[:, None]
        if outputs.ndim != 2 or len(outputs) != len(x):
            raise UnsupportedModelError(
                f"the model must return class scores [B, C], "
                f"but returned {tuple(outputs.shape)} for a batch of {len(x)}"
            )
        if outputs.is_complex() or _is_special(outputs):
            kind = "complex" if outputs.is_complex() else "sparse, quantised or without values"
            raise UnsupportedModelError(
                f"the class scores must be a dense tensor of real numbers, but they are {kind}"
            )
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def _call(self, x: torch.Tensor) -> Any:
        try:
            return self._forward(x)
        except (RlhfTuneError, torch.OutOfMemoryError):
            raise
        except Exception as exc:  # a forward raises what it likes
            tokens = torch.nn.Embedding | torch.nn.EmbeddingBag
            if any(isinstance(module, tokens) for module in self._model.modules()):
                raise UnsupportedModelError(
                    "the inputs must be numbers that can change a little, "
                    "but this model looks them up in an embedding: tokens cannot be measured"
                ) from exc
            raise UnsupportedModelError(
                f"the model must take batches of `x`, here {tuple(x.shape)} of {x.dtype}, but "
                f"its forward raised {type(exc).__name__}: {shortened(exc)}"
            ) from exc

    def _tensor(self, x: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(x).to(self._device, self._dtype)


@contextmanager
def borrowed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and enabled gradients; undone on leaving.

    Random streams begin at a seed, so that a random model measures the same each time.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with (
            evaluating(model),
            streams_kept(seed=0),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _check_form(model: torch.nn.Module) -> None:
    """Raise `UnsupportedModelError` for what a look at the model tells."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise UnsupportedModelError(
                f"the model must have its weights, but {name!r} has none yet; "
                f"pass a batch through it, or load them, first"
            )
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except ValueError:  # TorchScript tells no signature
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIABLE]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in needed]
    if len(needed) > 1 or by_name:
        raise UnsupportedModelError(
            f"the model must take one input array, by position, but its forward needs "
            f"{needed}{' by name' if by_name else ''}; wrap it in a module that passes them on"
        )


def link_of(model: torch.nn.Module) -> Link | None:
    """What the outputs are, where the last layer tells."""
    return _without_link(model)[1]


def _without_link(model: torch.nn.Module) -> tuple[Forward | None, Link | None]:
    """The model up to its logits where its last layer is a link, and what the whole returns.

    Only a chain of layers that are called as they stand is taken apart; whether the parts are the
    whole is then measured.
    """
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    last = _last(inner)
    if last is None:
        return None, None
    by_class = getattr(last, "dim", 1) in (1, -1, None)
    if type(last) is torch.nn.Sigmoid or (type(last) is torch.nn.Softmax and by_class):
        return lambda x: _skip_last(inner, x), "probability"
    if type(last) is torch.nn.Linear or (type(last) is torch.nn.LogSoftmax and by_class):
        return None, "logit"
    return None, None


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether calling a module is its forward and no more."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    everywhere = torch.nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    own = "forward" in vars(module) or type(module).__call__ is not torch.nn.Module.__call__
    return not (any(hooks) or everywhere or own)


def _is_chain(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward is torch.nn.Sequential.forward
        and len(module) > 0
    )


def _last(module: torch.nn.Module) -> torch.nn.Module | None:
    """The last layer of a chain; None where something else happens after or around it."""
    while _is_plain(module):
        if not _is_chain(module):
            return module
        module = list(module.children())[-1]
    return None


def _skip_last(module: torch.nn.Module, x: torch.Tensor) -> Any:
    if not _is_chain(module):
        return x  # the activation itself
    *layers, last = module.children()
    for layer in layers:
        x = layer(x)
    return _skip_last(last, x)
