"""Tuning problems of many kinds, each trained live: spaces, constraints and objectives differ."""
