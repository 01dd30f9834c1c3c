"""Whether the agents are worth having, on recorded tasks that did not shape them."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_the_sampler_beats_random_moves_and_random_search_on_validation_tasks() -> None:
    """Over 20 seeds of every fourth validation task, by regret after 10 and 20 trials.

    "No worse" than random moves: not by more than one standard error of the paired difference
    over tasks; better than random search: by more than two.
    """
    from benchmarks.recorded import tasks
    from benchmarks.studies import studies
    from benchmarks.studies.surfaces import Surface

    problems = [Surface(task) for task in tasks.load("validation")[::4]]
    played = dict.fromkeys(["random", "random moves", "default", "dqn"], 20)
    results = studies.compare(problems, played, trials=20)
    for policy in ("default", "dqn"):
        for n in (10, 20):
            ours, moves, search = (
                results[name].regret[..., n - 1].mean(axis=1)
                for name in (policy, "random moves", "random")
            )
            assert (ours - moves).mean() <= _error(ours - moves), (policy, n)
            assert (search - ours).mean() > 2 * _error(search - ours), (policy, n)


def _error(differences: np.ndarray) -> float:
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))
