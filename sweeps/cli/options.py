"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sweeps.config import names
from sweeps.config.errors import ConfigError

OVERRIDES = click.argument("overrides", nargs=-1)
CONFIG_DIRS = click.option(
    "--config-dir",
    "config_dirs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder of configuration files of yours, searched before ./conf and ours; may be repeated.",
)


def _checked(check: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Of an argument, or of each where there may be several: the name that was typed."""

    def callback(ctx: click.Context, parameter: click.Parameter, typed: Any) -> Any:
        try:
            return tuple(map(check, typed)) if isinstance(typed, tuple) else check(typed)
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx, parameter) from None

    return callback


SWEEP = click.argument("sweep_name", metavar="SWEEP", callback=_checked(names.sweep_name))
SWEEPS = click.argument("sweep_names", nargs=-1, metavar="[SWEEP]...", callback=_checked(names.sweep_name))


def identity(name: str, metavar: str) -> Callable[[Any], Any]:
    """An argument that is a sweep, or one of its trials."""
    return click.argument(name, metavar=metavar, callback=_checked(names.identity))


ROOT = click.option(
    "--root",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="storage.root of the sweeps.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")
