"""Fit text into the columns of a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """A text with escapes for what is not printable, by the rule of Python's own ``repr``: control characters, line
    ends, marks that turn the direction of writing, and halves of surrogate pairs, as undecodable file names have."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clean(text: str, width: int) -> str:
    """What is printable of a text of which at most `width` columns will be shown."""
    most = 4 * width  # characters; a column may hold several, as accents take none
    return printable(text if len(text) <= most else text[: most // 2] + text[-most // 2 :])


def fit_widths(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that add up to `room` if those that are the least do; what is too much is taken from the widest."""
    cut = max(wanted, default=0)
    widths = list(wanted)
    while cut > 1 and sum(widths) > room:
        cut -= 1
        widths = [max(low, min(width, cut)) for width, low in zip(wanted, least, strict=True)]
    return widths


def column_count(text: str) -> int:
    """The columns of a terminal that a text takes."""
    from rich.cells import cell_len  # imported here: `topgraft --help` loads this module and shows nothing

    return cell_len(text)


def padded(text: str, width: int, right: bool = False) -> str:
    space = " " * max(0, width - column_count(text))
    return space + text if right else text + space


def middle_out(text: str, width: int) -> str:
    """A text of at most so many columns, without its middle: both ends of a path tell it from others."""
    from rich.cells import set_cell_size

    if column_count(text) <= width:
        return text
    tail = (width - 1) // 2
    end = set_cell_size(text[::-1], tail)[::-1].lstrip() if tail else ""
    return set_cell_size(text, width - 1 - tail).rstrip() + "…" + end


def end_cut(text: str, width: int) -> str:
    """A sentence of at most so many columns, without its end."""
    from rich.cells import set_cell_size

    return text if column_count(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
