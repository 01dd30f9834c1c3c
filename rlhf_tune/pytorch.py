"""`rlhf_tune_integrations.pytorch` by the name that users guess."""

from rlhf_tune_integrations.pytorch import *  # noqa: F403
