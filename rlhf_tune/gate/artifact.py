"""A model's file: read once, hashed, and loaded from the very bytes that were hashed."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from rlhf_tune.errors import ArtifactError, InvalidInputError
from rlhf_tune.frameworks import WeightsOnly, framework_of, loader_of
from rlhf_tune.gate import digest

# Other suffixes of what a loader reads, and what to say of files that none can read safely.
_KERAS_WEIGHTS = ".weights.h5"
_ALSO = {".ckpt": ".pt", ".bin": ".pt", _KERAS_WEIGHTS: ".keras"}
_BOTH = {".keras"}  # models of which a loader's `weights` can take the weights alone
_WEIGHTS = (
    "save the weights (model.state_dict() to .safetensors or .pt; Keras: model.save_weights to "
    ".weights.h5) and name the function that builds the model by --factory"
)
_PICKLES = f"pickles are never loaded, since they run code: {_WEIGHTS}"
_REFUSED = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle"), _PICKLES),
    ".h5": "HDF5 models of earlier Keras are never loaded, as pickles are never loaded: save the "
    "model as .keras, or its weights by model.save_weights to .weights.h5",
    **dict.fromkeys(
        (".onnx", ".tflite", ".pb", ".mlmodel", ".engine", ".trt"),
        "such files have no gradients to attack: gate the model that it was converted from",
    ),
}


@dataclass(frozen=True)
class Identity:
    """What a report says of a model: which file, and which weights.

    Attributes:
        name: The file's name without its folder; None for a model in memory.
        sha256: Of the file.
        size: Of the file, in bytes.
        weights_digest: Of the weights alone, equal for every file that holds the same.
        factory: The ``package.module:function`` that built the model around the weights.
    """

    name: str | None = None
    sha256: str | None = None
    size: int | None = None
    weights_digest: str | None = None
    factory: str | None = None


@final
@dataclass(frozen=True)
class ModelFile:
    """The content of a model's file.

    Attributes:
        path: Where it was read.
        content: All its bytes.
    """

    path: Path
    content: bytes = field(repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Read a file whole, once.

        Raises:
            ArtifactError: If it cannot be read, is empty, or no adapter is known for its suffix.
        """
        try:
            if Path(path, "saved_model.pb").is_file():
                raise ArtifactError(
                    f"the model {os.fspath(path)!r} is a SavedModel, a graph without its layers: "
                    f"save the model as .keras"
                )
            content = Path(path).read_bytes()
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise ArtifactError(f"the model {os.fspath(path)!r} cannot be read: {why}") from exc
        if not content:
            raise ArtifactError(f"the model {os.fspath(path)!r} is empty")
        return cls(Path(path), content)

    @property
    def identity(self) -> Identity:
        """Name, hash and size of the file; its weights are not known before it is loaded."""
        return Identity(self.path.name, digest.of_bytes(self.content), len(self.content))

    def load(self, factory: str | None = None) -> tuple[Any, Identity]:
        """The model, and its identity with the digest of its weights.

        Args:
            factory: ``package.module:function``, which builds the model where the file holds
                weights alone, or layers of classes of one's own. This is the only way that user
                code runs.

        Raises:
            ArtifactError: If the file is unsafe or damaged, or does not fit the model.
            InvalidInputError: If a factory is needed and missing, or not needed, or fails.
        """
        bare = factory is not None and self.suffix in _BOTH
        loaded = self._open(bare)
        if isinstance(loaded, WeightsOnly):
            if factory is None:
                raise InvalidInputError(
                    f"{self.path.name!r} holds weights alone; name the function that builds its "
                    f"model: --factory package.module:function"
                )
            model = built_by(factory)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the weights fit or are refused
                loaded.assign(model)
        elif factory is not None:
            raise InvalidInputError(
                f"`--factory` is for files of weights alone, but {self.path.name!r} holds a model"
            )
        else:
            model = loaded
        return model, self._identified(model if bare else loaded, factory)

    def weights_digest(self) -> str:
        """The digest of the weights in the file; runs no user code.

        Raises:
            ArtifactError: If the file is unsafe or damaged.
        """
        return _weights_digest(self._open())

    @property
    def suffix(self) -> str:
        """In small letters, the one of Keras' weights whole."""
        name = self.path.name.lower()
        return _KERAS_WEIGHTS if name.endswith(_KERAS_WEIGHTS) else self.path.suffix.lower()

    def _open(self, bare: bool = False) -> Any:
        """What the file holds; `bare` leaves the model out and takes its weights alone."""
        if self.suffix in _REFUSED:
            raise ArtifactError(f"{self.path.name!r} cannot be gated: {_REFUSED[self.suffix]}")
        loader: Any = loader_of(_ALSO.get(self.suffix, self.suffix))
        read = loader.weights if bare else loader.load
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the file is read or refused, and either is said
            return read(self.content, self.suffix)

    def _identified(self, loaded: Any, factory: str | None) -> Identity:
        known = self.identity
        return Identity(known.name, known.sha256, known.size, _weights_digest(loaded), factory)


def identity_of(model: Any) -> Identity:
    """The identity of a model in memory: the digest of its weights."""
    return Identity(weights_digest=_weights_digest(model))


def _weights_digest(loaded: Any) -> str:
    if isinstance(loaded, WeightsOnly):
        return digest.of_arrays(loaded.arrays)
    return digest.of_arrays(framework_of(loaded).weights(loaded))


def built_by(factory: str) -> Any:
    """The model that ``package.module:function`` returns; the current folder may hold it.

    Raises:
        InvalidInputError: If there is no such function, or it fails.
    """
    module, colon, name = factory.partition(":")
    if not (module and colon and name):
        raise InvalidInputError(f"`--factory` must be package.module:function, but got {factory!r}")
    sys.path.insert(0, "")
    try:
        build: Callable[[], Any] = getattr(importlib.import_module(module), name)
        return build()
    except (Exception, SystemExit) as exc:
        raise InvalidInputError(
            f"`--factory {factory}` must build the model, but raised {type(exc).__name__}: {exc}"
        ) from exc
    finally:
        sys.path.remove("")
