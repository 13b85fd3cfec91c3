"""Sums over batches of what layers read and the gradients they get; growth solves for their means."""
