"""`rlhf_tune_integrations.lightning` by the name that users guess."""

from rlhf_tune_integrations.lightning import *  # noqa: F403
