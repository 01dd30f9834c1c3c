"""What the demo was asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf_tune.errors import InvalidInputError


@dataclass(frozen=True)
class Settings:
    """What `rlhf-tune demo` was asked to do; the defaults are the demo.

    The floor is one that binds: of a recorded grid of settings (`rlhf_tune.demo.record`) seven in
    ten lie below it, while those with the lowest loss keep .79 to .83 (lower bounds), which leaves
    a margin for another training seed and other images.

    Attributes:
        framework: "keras" or "torch".
        data: "digits", or the path of an npz file.
        trials: The number of trials in total.
        epochs: Of each training.
        eps: Radius (Linf) of the attack, in the units of the images, which span [0, 1].
        min_robust_accuracy: The floor of the accuracy under FGSM.
        max_train: Larger training sets are cut to this many images.
        name: Of the run: its folder within `runs_dir`.
        runs_dir: Where runs are kept.
        seed: Of everything random.
    """

    framework: Literal["keras", "torch"] = "keras"
    data: str = "digits"
    trials: int = 20
    epochs: int = 12
    eps: float = 0.05
    min_robust_accuracy: float = 0.75
    max_train: int = 2000
    name: str = "demo"
    runs_dir: Path = Path("runs")
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `InvalidInputError` for the setting that breaks its rule."""
        for option, least in {"trials": 1, "epochs": 1, "max_train": 20, "seed": 0}.items():
            if getattr(self, option) < least:
                raise InvalidInputError(
                    f"`--{option.replace('_', '-')}` must be at least {least}, but got "
                    f"{getattr(self, option)}"
                )
        unprintable = not self.name.isprintable()
        if not self.eps > 0:
            raise InvalidInputError(f"`--eps` must be above 0, but got {self.eps}")
        if self.name in ("", ".", "..") or set('/\\:"|?*<>') & set(self.name) or unprintable:
            raise InvalidInputError(f"`--name` must be a plain folder name, but got {self.name!r}")

    @property
    def folder(self) -> Path:
        """Where this run is written."""
        return self.runs_dir / self.name

    @property
    def fixed(self) -> dict[str, Any]:
        """What must not change between the parts of a run: all but its length and its place."""
        free = {"trials", "name", "runs_dir"}
        return {key: value for key, value in asdict(self).items() if key not in free}
