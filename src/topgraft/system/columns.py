"""Fit text into the columns of a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """A text with escapes for characters that Python's ``repr`` would escape.

    These are control characters, line ends, marks of writing direction, and the unpaired surrogates of file names that
    cannot be decoded.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clean(text: str, width: int) -> str:
    """The printable text, without most of its middle if it is much longer than `width` columns."""
    most = 4 * width  # characters; several can share a column, as accents do
    return printable(text if len(text) <= most else text[: most // 2] + text[-most // 2 :])


def fit_widths(widest: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths with a sum of at most `room`, if `least` allows it: the widest columns are narrowed first."""
    cut = max(widest, default=0)
    widths = list(widest)
    while cut > 1 and sum(widths) > room:
        cut -= 1
        widths = [max(low, min(width, cut)) for width, low in zip(widest, least, strict=True)]
    return widths


def column_count(text: str) -> int:
    """The number of terminal columns that a text takes."""
    from rich.cells import cell_len  # imported here: `topgraft --help` loads this module and needs no columns

    return cell_len(text)


def padded(text: str, width: int, right: bool = False) -> str:
    """A text filled with spaces to a number of columns, after it or, with `right`, before it."""
    space = " " * max(0, width - column_count(text))
    return space + text if right else text + space


def middle_out(text: str, width: int) -> str:
    """A text shortened to a number of columns by cutting its middle, as both ends of a path distinguish it."""
    from rich.cells import set_cell_size

    if column_count(text) <= width:
        return text
    tail = (width - 1) // 2
    end = set_cell_size(text[::-1], tail)[::-1].lstrip() if tail else ""
    return set_cell_size(text, width - 1 - tail).rstrip() + "…" + end


def end_cut(text: str, width: int) -> str:
    """A text shortened to a number of columns by cutting its end."""
    from rich.cells import set_cell_size

    return text if column_count(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
