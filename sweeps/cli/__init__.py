"""The command `sweeps`: what a user types, and what is printed.

Commands yield lines and tables; `command` alone prints them and ends the process. Nothing heavy is imported
before it is used: Hydra, Ray, Optuna, MLflow and torch take seconds, and `--help` and wrong requests answer
at once.

app         all subcommands
command     what each of them is: prints what it says, and its exit code
options     that several have
launching   launch, resume, extend, enqueue
looking     list, show, logs, compare, ui
managing    stop, rm, gc
training    best, train, preflight
closing     the last lines of a sweep
"""

from sweeps.cli.app import main

__all__ = ["main"]
