"""The command `sweeps`: its subcommands in the order in which people meet them.

Nothing heavy is imported here or by the files of the subcommands: Hydra, Ray, Optuna, MLflow and torch come
in where they are used, so that `--help` and wrong requests answer at once.
"""

from __future__ import annotations

import click

from sweeps.cli import launching, looking, managing, training
from sweeps.cli.command import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="growsweep")
def main() -> None:
    """Search over how a neural network should grow and be pruned while it trains."""


for _command in (
    launching.launch,
    launching.resume,
    launching.extend,
    launching.enqueue,
    managing.stop,
    looking.logs,
    managing.rm,
    managing.gc,
    looking.list_,
    looking.show,
    training.best,
    training.train,
    training.preflight,
    looking.compare,
    looking.keys,
    looking.ui,
):
    main.add_command(_command)
