"""Defended models whose robustness is known by other means, and those means."""
