"""Studies on Ray Tune: `Search` is Ray's `OptunaSearch` with constraints and a recommendation.

`OptunaSearch(sampler=DQNSampler())` works as it is, but drops what a trial says of its constraints,
and keeps the study to itself. A trainable reports costs, of which at most 0 is satisfied, beside
its metric:

    def trainable(config):
        ...
        tune.report({"loss": loss, "constraints": {"robustness": measurement.cost}})

    search = Search(sampler=DQNSampler(seed=0), metric="loss", mode="min")
    tune.Tuner(trainable, param_space=..., tune_config=tune.TuneConfig(search_alg=search)).fit()
    search.recommend()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_tune.errors import InvalidInputError, require

__all__ = ["Search"]

_OptunaSearch: Any = require("ray.tune.search.optuna", extra="ray").OptunaSearch

PREFIX = "constraints"
"""Of the results that are costs: `constraints/<name>`, or a mapping of that name."""


class Search(_OptunaSearch):  # type: ignore[misc]
    """`ray.tune.search.optuna.OptunaSearch`, with its arguments, for a sampler of this package."""

    @property
    def study(self) -> Any:
        """The `optuna.Study` behind it.

        Raises:
            InvalidInputError: Before Ray has told the search its space.
        """
        if self._ot_study is None:
            raise InvalidInputError(
                "a search has a study once it has a space, but got none; run the tuner first, or "
                "give `space`"
            )
        return self._ot_study

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study a trial's costs and then its value; Ray calls it."""
        if result and trial_id not in self._completed_trials:
            for name, cost in costs(result):
                self._ot_trials[trial_id].set_constraint(name, cost)
        super().on_trial_complete(trial_id, result, error)

    def recommend(self) -> dict[str, Any]:
        """The parameters to use, as `DQNSampler.recommend` chooses them.

        Raises:
            CannotCertify: If no trial satisfies all constraints.
            InvalidInputError: If the sampler is none of this package.
        """
        recommend = getattr(self.study.sampler, "recommend", None)
        if recommend is None:
            raise InvalidInputError(
                "`sampler` must be a DQNSampler to recommend, but got "
                f"{type(self.study.sampler).__name__}; its best trial is `study.best_params`"
            )
        chosen: dict[str, Any] = recommend(self.study)
        return chosen


def costs(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The costs in a result of Ray's by name, nested or flattened."""
    nested = result.get(PREFIX)
    if isinstance(nested, Mapping):
        for name, cost in nested.items():
            yield str(name), _checked(str(name), cost)
    for key, cost in result.items():
        if isinstance(key, str) and key.startswith(f"{PREFIX}/"):
            name = key.removeprefix(f"{PREFIX}/")
            yield name, _checked(name, cost)


def _checked(name: str, cost: Any) -> float:
    try:
        return float(cost)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"the cost of a constraint must be a number, but got {name}={cost!r}; report "
            "`measurement.cost`"
        ) from exc
