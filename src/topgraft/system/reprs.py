"""How a record is shown where a user looks at it: a short text in Python, tables in a notebook.

A record says in an `Overview` what there is to see; the text and the HTML are made here, within the limits below. What
files have said (names of classes and images) reaches neither a terminal nor a page unescaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .columns import clean, column_count, end_cut, fit_widths, middle_out, padded

LINES = 10  # of a text


WIDTH = 80  # columns of a line of text


HTML_BYTES = 20_000
"""Limits of what one object shows. A notebook keeps what it shows in its file, once for each cell."""


_GAP = "  "  # between the columns of a text


_LEAST = 22  # columns that are left of a value in a text of one line, or it is left out with those after it


# Rows of a table and characters of a cell in HTML: the first pair that stays within HTML_BYTES is taken. With the last
# even three tables of nine columns do, whose every character is escaped as five.
_STEPS = ((40, 100), (20, 60), (10, 40), (4, 16))


@dataclass(frozen=True)
class Grid:
    """A table, whose cells are only made for the rows that are shown.

    Attributes:
        columns: their names.
        rows: what each row is made of; any number.
        cells: makes the cells of one row, as many as columns.
        unit: what the rows are, in the plural: ``classes``.
    """

    columns: tuple[str, ...]
    rows: Sequence[Any]
    cells: Callable[[Any], Sequence[str]]
    unit: str = "rows"


@dataclass(frozen=True)
class Overview:
    """What a record shows of itself.

    Attributes:
        title: its kind, and what there is most to say about it.
        facts: name → value, the most important first; an empty value is left out.
        grids: tables; a text shows the first only, and none where the facts leave no room.
        one_line: the text is one line, as ``Sample(name=…, label=…)``: for records that come in lists.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    grids: tuple[Grid, ...] = ()
    one_line: bool = False


class Shown:
    """A record whose ``repr`` is short, and that a notebook shows as tables.

    A subclass names the function that makes its `Overview`: ``class Splits(Shown, overview=splits)``. A dataclass also
    says ``repr=False``, or it would get a ``repr`` of its own.
    """

    __slots__ = ()

    _overview: ClassVar[Callable[[Any], Overview]]

    def __init_subclass__(cls, overview: Callable[[Any], Overview] | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if overview is not None:  # or else the class inherits it, as one that `dataclass` makes again for its slots
            cls._overview = overview

    def __repr__(self) -> str:
        return as_text(self._overview())

    def _repr_html_(self) -> str:
        return as_html(self._overview())


def as_text(overview: Overview) -> str:
    """At most `LINES` lines of at most `WIDTH` columns, whatever there is to show."""
    facts = [(clean(name, WIDTH), clean(value, WIDTH)) for name, value in overview.facts.items() if value]
    if overview.one_line:
        return _one_line(clean(overview.title, WIDTH), facts)
    kept = facts[: LINES - 1]
    label = max((column_count(name) for name, _ in kept), default=0)
    lines = [clean(overview.title, WIDTH), *(padded(name, label) + _GAP + value for name, value in kept)]
    lines = [end_cut(line, WIDTH) for line in lines]
    room = LINES - len(lines) - 1  # below the table's own first line
    if overview.grids and overview.grids[0].rows and room > 1:
        lines += _grid_lines(overview.grids[0], room)
    return "\n".join(lines)


def as_html(overview: Overview) -> str:
    """Tables without colors, so that they look right on a light and on a dark page; at most `HTML_BYTES` bytes."""
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
    # The classes keep Jupyter's MathJax from reading names such as $a$ as formulas.
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
    """The lines of a table: its columns' names and at most `room` more."""
    before, after, left_out = _cells(grid, room)
    rows = [[clean(cell, WIDTH) for cell in row] for row in (grid.columns, *before, *after)]
    numbers = _are_numbers(rows[1:], len(grid.columns))
    wanted = [max(column_count(row[at]) for row in rows) for at in range(len(numbers))]
    # A number without its middle would be another number.
    least = [max(column_count(row[at]) for row in rows[1:]) if number else 1 for at, number in enumerate(numbers)]
    widths = fit_widths(wanted, least, WIDTH - len(_GAP) * (len(wanted) - 1))
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
    """The first and the last rows, and between them, where not all fit into the limit, how many are left out."""
    count = len(grid.rows)
    if count <= limit:
        return [grid.cells(row) for row in grid.rows], [], ""
    head, tail = limit // 2, (limit - 1) // 2
    last = [grid.cells(grid.rows[count - at]) for at in range(tail, 0, -1)]
    return [grid.cells(grid.rows[at]) for at in range(head)], last, f"… {count - head - tail:,} more {grid.unit}"


def _are_numbers(rows: Sequence[Sequence[str]], columns: int) -> list[bool]:
    """Whether a column holds numbers only, or dashes for those that do not exist; the first is a name."""
    return [at > 0 and all(row[at][:1].isdigit() or row[at][:1] in "–-" for row in rows) for at in range(columns)]


def _one_line(title: str, facts: Sequence[tuple[str, str]]) -> str:
    """As many of the facts as there is room for, without the middle of the longest."""
    for kept in range(len(facts), 0, -1):
        names = [name for name, _ in facts[:kept]]
        end = ", …)" if kept < len(facts) else ")"
        room = WIDTH - column_count(title + "(" + "=, ".join(names) + "=" + end)
        wanted = [column_count(value) for _, value in facts[:kept]]
        widths = fit_widths(wanted, [min(width, _LEAST) for width in wanted], room)
        if sum(widths) <= room:
            pairs = zip(facts, widths, strict=False)
            return f"{title}({', '.join(f'{name}={middle_out(value, w)}' for (name, value), w in pairs)}{end}"
    return end_cut(f"{title}(…)", WIDTH)


def _escaped(text: str, width: int) -> str:
    return html.escape(middle_out(clean(text, width), width), quote=False)
