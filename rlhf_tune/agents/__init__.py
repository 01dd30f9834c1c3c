"""Agents that choose among masked moves: tabular Q-learning and a double DQN."""
