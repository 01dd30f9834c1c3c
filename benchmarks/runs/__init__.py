"""Training runs: problems, methods, agents."""
