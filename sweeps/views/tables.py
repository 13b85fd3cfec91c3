"""Every table that is printed: whole lines for trials and sweeps, sections of text for plans.

On a pipe all is plain text: lines have no width there, and text is wrapped at 140 characters.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 140  # columns where there is no terminal to ask
_ENDLESS = 100_000  # characters, more than any line has
_GAP = (0, 2, 0, 0)  # two blanks to the right of a cell


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = (), width: int | None = None) -> list[str]:
    """Rows as lines, cells below each other; each row is one line, however long.

    Args:
        rows: the first holds the heads.
        left: indices of columns that hold words; all others are aligned to the right.
        width: characters a line may have, else its end is cut; None: any number.
    """
    table = Table(box=None, show_header=False, pad_edge=False, padding=_GAP)
    for index in range(len(rows[0])):
        table.add_column(justify="left" if index in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return [cut(f"  {line}", width) for line in lines(table, _ENDLESS)]


def terminal_width() -> int | None:
    """Characters a line of the terminal has; None on a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut(line: str, width: int | None) -> str:
    """A line, or as much of it as has room, with an ellipsis."""
    text = Text(line)
    if width is not None:
        text.truncate(width, overflow="ellipsis")
    return text.plain


def section(title: str, rows: Iterable[tuple[str, str]]) -> RenderableType:
    """A title, and below it what is said of each name."""
    return Group(Text(title, style="bold"), table(rows))


def table(
    rows: Iterable[Iterable[str | Text]], *heads: str, indent: int = 2, is_numbers: bool = False
) -> Table:
    """Rows of text, wrapped where a line has no room.

    Args:
        rows: their cells; a Text has a style of its own.
        heads: of the columns; none: no line of heads.
        indent: blanks before the first cell of a row.
        is_numbers: align all columns but the first to the right.
    """
    found = Table(box=None, pad_edge=False, show_header=bool(heads), header_style="bold", padding=_GAP)
    for index, head in enumerate(heads):
        found.add_column(head, justify="right" if is_numbers and index else "left")
    for first, *others in rows:
        found.add_row(Text.assemble(" " * indent, first), *(Text.assemble(cell) for cell in others))
    return found


def lines(renderable: RenderableType, width: int) -> list[str]:
    """Plain text of at most so many characters a line, without the blanks that fill it."""
    return _rendered(Console(width=width, color_system=None, markup=False, highlight=False), renderable)


def show(part: RenderableType) -> None:
    """Print to stdout; brackets are printed as they are."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.file.write("".join(f"{line}\n" for line in _rendered(console, part)))


def _rendered(console: Console, renderable: RenderableType) -> list[str]:
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]
