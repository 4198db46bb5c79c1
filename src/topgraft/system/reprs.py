"""Short ``repr`` of records in Python, and tables in a notebook.

A record lists its content in an `Overview`; this module makes text and HTML of it, within the limits below. Names from
files (of classes and images) are escaped in both.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .columns import clean, column_count, end_cut, fit_widths, middle_out, padded

LINES = 10  # lines of a text
WIDTH = 80  # columns of a line
HTML_BYTES = 20_000
"""Limits for one object. A notebook stores its output in its file, once for each cell."""

_GAP = "  "  # between the columns of a text
_LEAST = 22  # least columns of a value in a text of one line; with fewer, it and the values after it are omitted

# Rows of a table and characters of a cell in HTML: the first pair within HTML_BYTES is used. With the last pair three
# tables of nine columns fit even if every character is escaped as five.
_STEPS = ((40, 100), (20, 60), (10, 40), (4, 16))


@dataclass(frozen=True)
class Grid:
    """A table; its cells are computed only for rows that are shown.

    Attributes:
        columns: names of the columns.
        rows: one object for each row.
        cells: function of a row that returns its cells, one for each column.
        unit: name of the rows in the plural: ``classes``.
    """

    columns: tuple[str, ...]
    rows: Sequence[Any]
    cells: Callable[[Any], Sequence[str]]
    unit: str = "rows"


@dataclass(frozen=True)
class Overview:
    """The content that the ``repr`` of a record shows.

    Attributes:
        title: kind of the record and its main facts.
        facts: name → value, the most important first; empty values are omitted.
        grids: tables; a text shows only the first, if the facts leave room.
        one_line: whether the text is one line, as in ``Sample(name=…, label=…)``, for records in lists.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    grids: tuple[Grid, ...] = ()
    one_line: bool = False


class Shown:
    """Base of records with a short ``repr`` that notebooks show as tables.

    A subclass passes the function that returns its `Overview`: ``class Splits(Shown, overview=splits)``. A dataclass
    also passes ``repr=False``, or it would get a generated ``repr``.
    """

    __slots__ = ()

    _overview: ClassVar[Callable[[Any], Overview]]

    def __init_subclass__(cls, overview: Callable[[Any], Overview] | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if overview is not None:  # otherwise it is inherited, as by the class that `dataclass` creates for slots
            cls._overview = overview

    def __repr__(self) -> str:
        return as_text(self._overview())

    def _repr_html_(self) -> str:
        return as_html(self._overview())


def as_text(overview: Overview) -> str:
    """At most `LINES` lines of at most `WIDTH` columns."""
    facts = [(clean(name, WIDTH), clean(value, WIDTH)) for name, value in overview.facts.items() if value]
    if overview.one_line:
        return _one_line(clean(overview.title, WIDTH), facts)
    facts = facts[: LINES - 1]
    label = max((column_count(name) for name, _ in facts), default=0)
    lines = [clean(overview.title, WIDTH), *(padded(name, label) + _GAP + value for name, value in facts)]
    lines = [end_cut(line, WIDTH) for line in lines]
    room = LINES - len(lines) - 1  # below the table's header
    if overview.grids and overview.grids[0].rows and room > 1:
        lines += _grid_lines(overview.grids[0], room)
    return "\n".join(lines)


def as_html(overview: Overview) -> str:
    """Tables without colors, which suit light and dark pages; at most `HTML_BYTES` bytes."""
    text = ""
    for rows, width in _STEPS:
        text = _html(overview, rows, width)
        if len(text.encode()) <= HTML_BYTES:
            break
    return text


def _html(overview: Overview, rows: int, width: int) -> str:
    facts = [(name, value) for name, value in overview.facts.items() if value]
    parts = [f"<p><b>{_escaped(overview.title, 2 * width)}</b></p>"]
    if facts:
        body = "".join(
            f'<tr><th scope="row" style="text-align:left;vertical-align:top">{_escaped(name, width)}</th>'
            f'<td style="text-align:left">{_escaped(value, 3 * width)}</td></tr>'
            for name, value in facts
        )
        parts.append(f"<table><tbody>{body}</tbody></table>")
    parts += [_grid_html(grid, rows, width) for grid in overview.grids if grid.rows]
    # The classes keep Jupyter's MathJax from typesetting names such as $a$ as formulas.
    return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'


def _grid_html(grid: Grid, limit: int, width: int) -> str:
    before, after, left_out = _cells(grid, limit)
    sides = ["right" if number else "left" for number in _are_numbers([*before, *after], len(grid.columns))]

    def row(cells: Sequence[str], tag: str) -> str:
        pairs = zip(cells, sides, strict=True)
        return (
            "<tr>" + "".join(f'<{tag} style="text-align:{s}">{_escaped(c, width)}</{tag}>' for c, s in pairs) + "</tr>"
        )

    gap = f'<tr><td colspan="{len(grid.columns)}" style="text-align:left">{left_out}</td></tr>' if left_out else ""
    body = "".join(row(cells, "td") for cells in before) + gap + "".join(row(cells, "td") for cells in after)
    return f"<table><thead>{row(grid.columns, 'th')}</thead><tbody>{body}</tbody></table>"


def _grid_lines(grid: Grid, room: int) -> list[str]:
    """The lines of a table: its header and at most `room` more."""
    before, after, left_out = _cells(grid, room)
    rows = [[clean(cell, WIDTH) for cell in row] for row in (grid.columns, *before, *after)]
    numbers = _are_numbers(rows[1:], len(grid.columns))
    widest = [max(column_count(row[i]) for row in rows) for i in range(len(numbers))]
    # Cutting the middle of a number would change its value.
    least = [max(column_count(row[i]) for row in rows[1:]) if number else 1 for i, number in enumerate(numbers)]
    widths = fit_widths(widest, least, WIDTH - len(_GAP) * (len(widest) - 1))
    lines = [
        _GAP.join(
            padded(middle_out(cell, width), width, right)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]
    lines = [*lines[: 1 + len(before)], *([left_out] if left_out else []), *lines[1 + len(before) :]]
    return [end_cut(line, WIDTH) for line in lines]


def _cells(grid: Grid, limit: int) -> tuple[list[Sequence[str]], list[Sequence[str]], str]:
    """The first rows, the last rows, and a text with the number of rows between them that exceed the limit."""
    count = len(grid.rows)
    if count <= limit:
        return [grid.cells(row) for row in grid.rows], [], ""
    head, tail = limit // 2, (limit - 1) // 2
    last = [grid.cells(grid.rows[count - i]) for i in range(tail, 0, -1)]
    return [grid.cells(grid.rows[i]) for i in range(head)], last, f"… {count - head - tail:,} more {grid.unit}"


def _are_numbers(rows: Sequence[Sequence[str]], columns: int) -> list[bool]:
    """Whether each column has only numbers, or dashes for missing ones. The first column has names."""
    return [i > 0 and all(row[i][:1].isdigit() or row[i][:1] in "–-" for row in rows) for i in range(columns)]


def _one_line(title: str, facts: Sequence[tuple[str, str]]) -> str:
    """As many of the facts as fit, with the longest values cut in the middle."""
    for count in range(len(facts), 0, -1):
        names = [name for name, _ in facts[:count]]
        end = ", …)" if count < len(facts) else ")"
        room = WIDTH - column_count(title + "(" + "=, ".join(names) + "=" + end)
        widest = [column_count(value) for _, value in facts[:count]]
        widths = fit_widths(widest, [min(width, _LEAST) for width in widest], room)
        if sum(widths) <= room:
            pairs = zip(facts, widths, strict=False)
            return f"{title}({', '.join(f'{name}={middle_out(value, w)}' for (name, value), w in pairs)}{end}"
    return end_cut(f"{title}(…)", WIDTH)


def _escaped(text: str, width: int) -> str:
    return html.escape(middle_out(clean(text, width), width), quote=False)
