"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

OVERRIDES = click.argument("overrides", nargs=-1)
CONFIG_DIRS = click.option(
    "--config-dir",
    "config_dirs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder of configuration files of yours, searched before ./conf and ours; may be repeated.",
)
SWEEP = click.argument("sweep_name", metavar="SWEEP")
ROOT = click.option(
    "--root",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="storage.root of the sweeps.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")
