"""Real training, recorded over a grid: what is trained on what, and the tables."""
