"""When a trial is stopped early."""

import math

import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import Measurement, constraint, hopeless


def test_a_trial_is_hopeless_when_its_cost_will_hardly_fall_enough() -> None:
    def early(value: float) -> Measurement:
        return constraint("f", lambda model: value, at_least=0.5)(None)

    assert hopeless(early(0.2))
    assert not hopeless(early(0.3))
    assert hopeless(early(0.3), drift=0.1)
    assert not hopeless(early(math.nan))
    with pytest.raises(InvalidInputError, match="`drift >= 0`"):
        hopeless(early(0.2), drift=-0.1)
