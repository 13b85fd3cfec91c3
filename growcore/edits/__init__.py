"""Observe, decide, act: growth and pruning of a network that trains, and what was done."""
