"""Golden values, worked by hand, of the targets in `rlhf_tune.agents.losses`."""

import pytest

torch = pytest.importorskip("torch")

from rlhf_tune.agents.losses import double_q_target, huber

Q = torch.tensor([[1.0, 5.0, 3.0], [-4.0, -2.0, -1.0], [7.0, 8.0, 9.0]])
MASK = torch.tensor([[True, False, True], [True, True, False], [False, False, False]])
REWARD = torch.tensor([1.0, 10.0, 100.0])


def q_target(reward: torch.Tensor, discount: torch.Tensor, q: torch.Tensor, mask: torch.Tensor):  # type: ignore[no-untyped-def]
    """The plain target: one network both selects and values."""
    return double_q_target(reward, discount, q, q, mask)


def test_the_bootstrap_maximum_ignores_what_is_forbidden() -> None:
    assert q_target(torch.zeros(3), torch.ones(3), Q, MASK).tolist() == [3.0, -2.0, 0.0]


def test_q_target_bootstraps_over_the_next_states_mask() -> None:
    discount = torch.tensor([0.5, 0.5, 0.5])
    assert q_target(REWARD, discount, Q, MASK).tolist() == [2.5, 9.0, 100.0]


def test_truncation_bootstraps_and_termination_does_not() -> None:
    truncated = q_target(REWARD[:1], torch.tensor([0.9]), Q[:1], MASK[:1])
    terminated = q_target(REWARD[:1], torch.tensor([0.0]), Q[:1], MASK[:1])
    assert truncated.item() == pytest.approx(1 + 0.9 * 3)
    assert terminated.item() == 1.0


def test_double_target_values_the_online_networks_choice_by_the_target_network() -> None:
    online = torch.tensor([[2.0, 9.0, 1.0], [0.0, 1.0, 9.0], [1.0, 1.0, 1.0]])
    discount = torch.tensor([0.5, 0.5, 0.5])
    # Row 0: of actions {0, 2} online prefers 0, the target network says 1; row 1: action 1, -2.
    assert double_q_target(REWARD, discount, online, Q, MASK).tolist() == [1.5, 9.0, 100.0]


def test_a_forbidden_infinite_or_undefined_value_cannot_leak() -> None:
    q = torch.tensor([[torch.nan, 2.0], [torch.inf, torch.nan]])
    mask = torch.tensor([[False, True], [False, False]])
    reward, discount = torch.zeros(2), torch.ones(2)
    assert q_target(reward, discount, q, mask).tolist() == [2.0, 0.0]


def test_no_gradient_flows_through_a_target() -> None:
    q = Q.clone().requires_grad_()
    discount = torch.ones(3)
    assert not q_target(REWARD, discount, q, MASK).requires_grad


def test_huber_is_quadratic_then_linear() -> None:
    assert huber(torch.tensor([0.5])).item() == pytest.approx(0.125)
    assert huber(torch.tensor([3.0])).item() == pytest.approx(2.5)
