"""Tables and lines on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from topgraft.system.formatting import share
from topgraft.system.progress import wrapped

PLAIN_WIDTH = 160  # columns where the output is not a terminal: nothing is cut off in a file or a pipe


_ROOMY = 118  # columns from which on every column of a table is shown


def lines(found: Sequence[str]) -> None:
    """Text, the last line as the headline."""
    console = make_console()
    for number, line in enumerate(found, start=1):
        text = wrapped(line, console.width) if sys.stdout.isatty() else line
        style = "bold" if number == len(found) else None
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def millions(value: int | None, digits: int) -> str:
    return "–" if value is None else f"{value / 1e6:,.{digits}f} M"


def share_cell(value: float | None) -> str:
    return "–" if value is None else share(value)


def print_columns(console: Console, columns: Mapping[str, Sequence[str]], spare: Sequence[str]) -> None:
    """A table by columns, without the `spare` ones where the terminal has no room for them."""
    names = [name for name in columns if console.width >= _ROOMY or name not in spare]
    shown = make_table(*names)
    for row in zip(*(columns[name] for name in names), strict=True):
        shown.add_row(*map(escape, row))
    console.print(shown)
    if len(names) < len(columns):
        console.print(f"a terminal of {_ROOMY} columns also shows {', '.join(spare)}", highlight=False)


def make_table(*columns: str, title: str | None = None) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        right = column in {
            "parameters", "multiply-adds", "precision", "recall", "F1", "images", "probability", "lowest",
            "highest", "top-1", "median", "activations", "sees", "input", "train", "validation", "test", "total",
        }  # fmt: skip
        shown.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=number > 0 and right)
    return shown


class Output(Console):
    """Standard output. Where its reader has gone, rich would end the program with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console() -> Console:
    return Output(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
