"""`DQNSampler` of rlhf_tune, as OptunaHub loads it."""

try:
    from rlhf_tune import DQNSampler
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "`rlhf_tune` must be installed for this; run: pip install rlhf-tune"
    ) from exc

__all__ = ["DQNSampler"]
