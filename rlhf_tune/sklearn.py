"""`rlhf_tune_integrations.sklearn` by the name that users guess."""

from rlhf_tune_integrations.sklearn import *  # noqa: F403
