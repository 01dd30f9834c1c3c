"""A study: one trial a step. `DQNSampler` and all that decides for it."""
