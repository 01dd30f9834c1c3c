"""`rlhf_tune_integrations.skorch` by the name that users guess."""

from rlhf_tune_integrations.skorch import *  # noqa: F403
