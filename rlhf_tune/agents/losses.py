"""Targets and losses of Q-learning with masked actions, as pure functions.

Names carry time as in Sutton and Barto (2018): the action a_tm1 in state s_tm1 gives the reward
r_t, the discount discount_t and the state s_t. The discount is 0 where the episode terminated at
s_t and stays gamma where it was merely truncated, so truncation bootstraps and termination does
not.
"""

from __future__ import annotations

from rlhf_tune.errors import optional

with optional("torch", extra="torch"):
    import torch
    from torch import Tensor


def double_q_target(
    r_t: Tensor, discount_t: Tensor, q_t_selector: Tensor, q_t_value: Tensor, mask_t: Tensor
) -> Tensor:
    """The double Q-learning target: one network selects the next action, another values it.

    With one network in both places it is the plain target of Watkins and Dayan (1992),
    doi:10.1007/BF00992698. A state without an allowed action is terminal, and is worth 0.

    Source: van Hasselt, Guez and Silver (2016), arXiv:1509.06461, eq. 4, restricted to the
    actions that the next state allows.

    Args:
        r_t: [B] rewards.
        discount_t: [B] discounts.
        q_t_selector: [B, A] values of the next state by the online network.
        q_t_value: [B, A] values of the next state by the target network.
        mask_t: [B, A] which actions the *next* state allows.

    Returns:
        [B] targets, finite whenever the inputs are; without gradient.
    """
    selected = q_t_selector.masked_fill(~mask_t, -torch.inf).argmax(dim=1, keepdim=True)
    bootstrap = q_t_value.gather(1, selected).squeeze(1)
    bootstrap = torch.where(mask_t.any(dim=1), bootstrap, torch.zeros_like(bootstrap))
    return (r_t + discount_t * bootstrap).detach()


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """Mean Huber loss of temporal-difference errors [B]: quadratic within `delta`, then linear."""
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=delta)
