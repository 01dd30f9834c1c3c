"""Logits of outputs, and the losses of the attacks, by hand."""

import numpy as np

from rlhf_tune.safety.logits import as_logits, attack_loss


def test_the_margin_by_hand() -> None:
    logits = np.array([[1.0, 4.0, 2.5], [0.0, -1.0, 3.0]])
    own = np.array([[False, True, False], [True, False, False]])
    assert attack_loss(logits, own, "margin", np).tolist() == [-1.5, 3.0]


def test_the_smooth_loss_is_the_cross_entropy() -> None:
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(50, 5)), rng.integers(0, 5, 50)
    own = labels[:, None] == np.arange(5)
    rise = attack_loss(logits, own, "cross_entropy", np)
    probability = np.exp(logits)[own] / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(np.log1p(np.exp(rise)), -np.log(probability))


def test_one_output_is_two_classes() -> None:
    z = np.array([[-2.0], [0.0], [3.0]])
    np.testing.assert_array_equal(as_logits(z, "logit", np), [[0, -2], [0, 0], [0, 3]])
    logits = as_logits(1 / (1 + np.exp(-z)), "probability", np)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], z[:, 0], atol=1e-12)
