"""Fine-tuning by layer group: source tasks, their simulation, and baselines."""
