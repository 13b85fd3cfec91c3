"""The command `sweeps`: what a user types, and what is printed.

Nothing heavy is imported before it is used: Hydra, Ray, Optuna, MLflow and torch take seconds, and `--help`
and wrong requests answer at once.
"""

from sweeps.cli.app import main

__all__ = ["main"]
