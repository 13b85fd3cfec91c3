"""What every subcommand is: it yields what it says, part by part, and may return its exit code.

A part is a line or a table of rich's. Only this file prints them and ends the process: 0 done, 2 the request
was wrong, 3 it ran and failed, 130 interrupted and resumable.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import click

from sweeps.config.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    Lines = Iterator[RenderableType]  # of a command that is done when it ends
    Answer = Generator[RenderableType, None, int]  # returns the exit code

DONE, WRONG_REQUEST, FAILED, INTERRUPTED = 0, 2, 3, 130


class Command(click.Command):
    """A subcommand that ends with one message and the right exit code; --debug shows where it came from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("help"):
            # click wants the backspace itself before lines it leaves as they are; raw docstrings spell it.
            kwargs["help"] = kwargs["help"].replace("\\b", "\b")
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.", expose_value=True)
        )

    def invoke(self, ctx: click.Context) -> None:
        """Run it and print what it says; errors become messages on stderr."""
        debug = ctx.params.pop("debug")
        try:
            code = _printed(super().invoke(ctx))
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click answers these itself; the last is that of `sweeps logs SWEEP/3 | head`
        except ConfigError as error:
            code = _wrong(f"error: {error}", WRONG_REQUEST, debug)
        except KeyboardInterrupt:
            code = _wrong("interrupted", INTERRUPTED, debug)
        except Exception as error:  # whatever failed, its user gets one message
            hint = "" if debug else " (--debug shows where)"
            code = _wrong(f"failed: {type(error).__name__}: {error}{hint}", FAILED, debug)
        if code:
            ctx.exit(code)


class Commands(click.Group):
    """A group whose subcommands are `Command`s, listed in the order in which they are written."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As written."""
        return list(self.commands)


def _printed(said: Lines | Answer | None) -> int:
    """Print each part as it comes; returns the exit code."""
    parts = iter(said or ())
    while True:
        try:
            part = next(parts)
        except StopIteration as end:
            return end.value or DONE
        if isinstance(part, str):
            click.echo(part)
        else:
            from sweeps.views import tables

            tables.show(part)


def _wrong(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(message, err=True)
    return code
