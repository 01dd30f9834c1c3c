"""The learning rate of a Keras optimizer, also where it is a schedule."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError


class Rate:
    """Reads and sets the learning rate of a model's optimizer.

    A schedule is multiplied by a factor from the first `set` to `close`.

    Raises:
        UnsupportedModelError: If the learning rate is a function.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        rate = rate_of(model.optimizer)
        if not isinstance(rate, keras.Variable | Schedule):
            raise UnsupportedModelError(
                "the learning rate must be a number or a LearningRateSchedule, but is a function"
            )
        self._scaled = ScaledSchedule(rate) if isinstance(rate, Schedule) else None
        self._noted: float | None = None

    @property
    def value(self) -> float:
        """In effect for the next step."""
        return float(self._model.optimizer.learning_rate)

    @property
    def scheduled(self) -> bool:
        """Whether it moves by itself."""
        return self._scaled is not None

    @property
    def variables(self) -> list[keras.Variable]:
        """Those that the optimizer does not list."""
        return [self._scaled.scale] if self._scaled else []

    def check(self, value: float) -> None:
        """Raise `InvalidInputError` unless the value can be set."""
        if not 0 < value < math.inf:
            raise InvalidInputError(f"`learning_rate` must be above 0, but got {value}")
        if self._scaled and not self._of_schedule(self._scaled) > 0:
            raise InvalidInputError(
                f"`learning_rate` cannot be set to {value} where the schedule gives 0, as it is "
                f"a factor on the schedule that is set; let the schedule start above 0"
            )

    def set(self, value: float) -> None:
        """Change it from the next step on.

        Raises:
            InvalidInputError: If something else has changed it since.
        """
        self._check_owner()
        if self._scaled is None:
            self._model.optimizer.learning_rate = value
        else:
            if rate_of(self._model.optimizer) is not self._scaled:
                self._install(self._scaled)
            self._scaled.scale.assign(value / self._of_schedule(self._scaled))
        self.note()

    def note(self) -> None:
        """Take what is in effect as what was agreed on."""
        self._noted = self._plain_value()

    def close(self) -> None:
        """Give the optimizer its own schedule back."""
        if self._scaled and rate_of(self._model.optimizer) is self._scaled:
            self._install(self._scaled.base)

    def _plain_value(self) -> float | None:
        rate = rate_of(self._model.optimizer)
        return float(rate) if isinstance(rate, keras.Variable) else None

    def _check_owner(self) -> None:
        now, noted = self._plain_value(), self._noted
        if noted is not None and now != noted:
            raise InvalidInputError(
                f"only one side may set the learning rate, but it was changed from {noted:.4g} to "
                f"{'a schedule' if now is None else f'{now:.4g}'} by a callback or the like, while "
                f"the policy sets it; leave that out, or say policy='constant'"
            )

    def _of_schedule(self, scaled: ScaledSchedule) -> float:
        return float(scaled.base(self._model.optimizer.iterations))

    def _install(self, schedule: Schedule) -> None:
        self._model.optimizer.learning_rate = schedule
        # A training step that is traced does not see a new schedule.
        self._model.make_train_function(force=True)


@keras.saving.register_keras_serializable("rlhf_tune")
class ScaledSchedule(Schedule):  # type: ignore[misc]
    """A schedule times a factor; the factor is a variable, so a traced step reads it.

    Attributes:
        base: The schedule.
        scale: The factor.
    """

    def __init__(self, base: Schedule) -> None:
        self.base = base
        self.scale = keras.Variable(1.0, trainable=False, name="scale")

    def __call__(self, step: Any) -> Any:
        """The rate at a step."""
        return self.base(step) * self.scale

    def get_config(self) -> dict[str, Any]:
        """The schedule's; the factor belongs to a run."""
        return {"base": keras.optimizers.schedules.serialize(self.base)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ScaledSchedule:
        """From what `get_config` gave."""
        return cls(keras.optimizers.schedules.deserialize(config["base"]))


def rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The variable, schedule or function behind the learning rate."""
    return getattr(optimizer, "inner_optimizer", optimizer)._learning_rate
