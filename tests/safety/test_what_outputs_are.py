"""What a model's outputs are, whether they stand still, and who decides the predictions."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import MembershipLeakage, RobustAccuracy
from rlhf_tune.safety.evaluation import Evaluation

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")

RNG = np.random.default_rng(3)
X = RNG.random((260, 4))
W = np.array([1.0, -1.0, 0.5, 0.0])
SCORE = (X - 0.5) @ W
Y = (SCORE > 0).astype(int)


class Model:
    """One output for each function of the single score, with the gradient of that score."""

    whole: Any = None

    def __init__(self, *links: Any, link: str | None = None) -> None:
        self.links, self.link = links, link

    def outputs(self, x: Any) -> Any:
        score = (x - 0.5) @ W
        return np.stack([link(score) for link in self.links], axis=1)

    def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
        return np.where(own[:, 1], -1, 1)[:, None] * np.sign(W)


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def small_logit(z: Any) -> Any:
    return 0.02 + 0.01 * np.tanh(z)  # always above zero: class 1, whatever the input


def measure(model: Any, eps: float = 0.05, **more: Any) -> Any:
    return RobustAccuracy(X, Y, eps=eps, at_least=0.1, **more)(model)


# One logit or one probability


def test_values_alone_are_no_evidence_of_what_one_output_is() -> None:
    for link in (sigmoid, small_logit):
        assert any("outputs='logits'" in reason for reason in measure(Model(link)).reasons)


@pytest.mark.parametrize(
    ("model", "outputs", "clean"),
    [
        (Model(sigmoid), "probabilities", 1.0),
        (Model(small_logit), "logits", Y.mean()),
        (Model(lambda z: z), "auto", 1.0),  # beyond [0, 1]
        (Model(sigmoid, link="probability"), "auto", 1.0),
        (Model(small_logit, link="logit"), "auto", Y.mean()),
        (Model(lambda z: 1 - sigmoid(z), sigmoid), "auto", 1.0),  # rows that sum to 1
    ],
)
def test_what_is_said_or_known_is_no_doubt(model: Any, outputs: Any, clean: float) -> None:
    result = measure(model, outputs=outputs)
    assert result.trusted, result.reasons
    assert result.details["clean_accuracy"] == clean


@pytest.mark.parametrize(
    ("model", "outputs", "message"),
    [
        (Model(sigmoid, link="probability"), "logits", "must be 'probabilities'"),
        (Model(lambda z: 3 * z), "probabilities", "leave .0, 1."),
        (Model(sigmoid, sigmoid), "probabilities", "do not sum to 1"),
        (Model(sigmoid), "logit", "'auto', 'logits', 'probabilities'"),
    ],
)
def test_declarations_that_cannot_be_are_refused(model: Any, outputs: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        measure(model, outputs=outputs)


def test_sigmoids_side_by_side_are_probabilities_where_the_last_layer_says_so() -> None:
    two = Model(lambda z: sigmoid(-z) / 2, lambda z: sigmoid(z) / 2, link="probability")
    assert measure(two, outputs="probabilities").trusted


def test_coarse_probabilities_still_sum_to_one() -> None:
    rounded = Model(lambda z: sigmoid(-z).round(2) + 0.004, lambda z: sigmoid(z).round(2))
    evaluation = Evaluation(rounded, X, Y)  # type: ignore[arg-type]
    np.testing.assert_allclose(evaluation.logits, np.log(rounded.outputs(X)))


def test_undefined_rows_do_not_decide_what_the_others_are() -> None:
    broken = Model(lambda z: np.where(z > 0.8, np.nan, sigmoid(z)))
    result = measure(broken, outputs="probabilities")
    assert result.reasons == ("the model's outputs are not finite",)


# Order, batches and chance


class ByBatch(Model):
    """Subtracts the mean score of the batch."""

    def outputs(self, x: Any) -> Any:
        return super().outputs(x - x.mean(axis=0) + 0.5)


class ByPlace(Model):
    """The first sample of each batch is turned around."""

    def outputs(self, x: Any) -> Any:
        outputs = super().outputs(x)
        outputs[0] *= -1
        return outputs


class Chance(Model):
    rng = np.random.default_rng(0)

    def outputs(self, x: Any) -> Any:
        return super().outputs(x) + self.rng.normal(0, 0.1, (len(x), 1))


LOGITS = (lambda z: -z, lambda z: z)


@pytest.mark.parametrize("kind", [ByBatch, ByPlace])
@pytest.mark.parametrize("n", [3, 30, 256, 257, 260])
@pytest.mark.parametrize("draws", [1, 4])
def test_outputs_that_depend_on_the_batch_are_doubted(kind: Any, n: int, draws: int) -> None:
    evaluation = Evaluation(kind(*LOGITS), X[:n], Y[:n], draws=draws)
    assert any("other samples" in doubt for doubt in evaluation.doubts)


@pytest.mark.parametrize("full", [False, True])
def test_chance_is_doubted_unless_it_is_asked_for(full: bool) -> None:
    model = Chance(*LOGITS)
    assert any("not deterministic" in reason for reason in measure(model, full=full).reasons)
    assert Evaluation(model, X, Y, draws=8).doubts == []


def test_leakage_is_measured_on_outputs_that_stand_still() -> None:
    leakage = MembershipLeakage((X[:130], Y[:130]), (X[130:], Y[130:]), at_most=0.9)
    assert leakage(Model(*LOGITS)).trusted
    assert not leakage(ByBatch(*LOGITS)).trusted
    assert not leakage(Chance(*LOGITS)).trusted


def test_rounding_is_no_dependence() -> None:
    class Rounds(Model):
        """Another last bit of bfloat16 in each batch."""

        def outputs(self, x: Any) -> Any:
            return super().outputs(x) * (1 + 0.004 * (len(x) % 2))

    assert Evaluation(Rounds(*LOGITS), X, Y).doubts == []  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 3, 256, 257])
def test_no_batch_of_one_is_made_of_more(n: int) -> None:
    sizes = []

    class Sizes(Model):
        def outputs(self, x: Any) -> Any:
            sizes.append(len(x))
            return super().outputs(x)

    Evaluation(Sizes(*LOGITS), X[:n], Y[:n])  # type: ignore[arg-type]
    first = -(-n // 256)
    assert min(sizes[first:]) >= min(n, 2)
    assert n == 1 or len(sizes) > first + 1


# The model as it is served decides


def test_a_surrogate_that_says_otherwise_is_not_believed() -> None:
    flipped = Model(lambda z: z, lambda z: -z, link="logit")
    flipped.whole = Model(lambda z: sigmoid(-50 * z), lambda z: sigmoid(50 * z), link="probability")
    result = measure(flipped)
    assert result.details["clean_accuracy"] == 1.0
    saturated = Model(lambda z: z, lambda z: -z, link="logit")
    saturated.whole = Model(lambda z: 1.0 * (z <= 0), lambda z: 1.0 * (z > 0), link="probability")
    assert any("saturate" in reason for reason in measure(saturated).reasons)


def test_a_surrogate_that_agrees_gives_the_logits() -> None:
    agrees = Model(*LOGITS, link="logit")
    agrees.whole = Model(lambda z: 1.0 * (z <= 0), lambda z: 1.0 * (z > 0), link="probability")
    result = measure(agrees)
    assert result.trusted, result.reasons
    kept = np.abs(SCORE) > 0.05 * np.abs(W).sum()
    assert result.value == pytest.approx(kept.mean(), abs=0.02)  # less where [0, 1] stops it


def test_what_is_attacked_is_judged_by_the_model_as_it_is_served() -> None:
    agrees = Model(*LOGITS, link="logit")

    class OnlyClean(Model):
        """Right on the samples themselves, wrong everywhere else."""

        def outputs(self, x: Any) -> Any:
            known = (np.abs(x[:, None, 0] - X[None, :, 0]) < 1e-9).any(axis=1)
            return np.where(known[:, None], super().outputs(x), -super().outputs(x))

    agrees.whole = OnlyClean(lambda z: -9 * z, lambda z: 9 * z)
    assert measure(agrees).details["clean_accuracy"] == 1.0
    assert measure(agrees, eps=0.001).value < 0.01
