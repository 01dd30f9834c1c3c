"""`rlhf_tune_integrations.keras` by the name that users guess."""

from rlhf_tune_integrations.keras import *  # noqa: F403
