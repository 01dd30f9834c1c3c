"""`rlhf_tune_integrations.ray` by the name that users guess."""

from rlhf_tune_integrations.ray import *  # noqa: F403
