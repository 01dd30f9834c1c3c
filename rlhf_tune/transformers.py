"""`rlhf_tune_integrations.transformers` by the name that users guess."""

from rlhf_tune_integrations.transformers import *  # noqa: F403
