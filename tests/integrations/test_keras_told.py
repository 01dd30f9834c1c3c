"""What Keras' `fit` returns prints as a table, and knows its bounds and the state handed back."""

import numpy as np
import pytest

from rlhf_tune.plot import plot_run
from rlhf_tune.safety import constraint
from tests.integrations.keras_runs import VALIDATION, X, Y, eager, keras_and_numpy_2

pytestmark = [pytest.mark.keras, keras_and_numpy_2]

keras = pytest.importorskip("keras")


@pytest.mark.parametrize("policy", ["bold", "constant"])
def test_the_history_is_keras_own_and_a_table(policy: str) -> None:
    from rlhf_tune_integrations.keras import fit

    weight = constraint("weight", lambda m: float(np.abs(m.get_weights()[0]).max()), at_most=9.0)
    constrained = {"constraints": [weight]} if policy == "bold" else {}
    history = fit(
        eager(), X, Y, epochs=3, policy=policy, validation_data=VALIDATION, verbose=0, **constrained
    )
    assert isinstance(history, keras.callbacks.History)
    head, *rows = str(history).splitlines()
    assert head.split()[0] == "epoch"
    assert "val_loss" in head.replace("\n", "")
    assert [row.split()[0] for row in rows[: len(history.epoch)]] == ["1", "2", "3"][: len(rows)]
    assert "<table>" in history._repr_html_()
    if policy == "bold":
        assert history.bounds == {"weight": 9.0}
        assert 0 <= history.returned < len(history.epoch)
        assert f"the model handed back is that of epoch {history.returned + 1}" in str(history)
        pytest.importorskip("matplotlib")
        assert "green: the state handed back" in plot_run(history).axes[-2].get_xlabel()
