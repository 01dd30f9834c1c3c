"""Recorded tuning tasks, and every peer side by side on them."""
