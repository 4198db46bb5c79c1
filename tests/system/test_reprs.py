"""What a record shows of itself, as text and as HTML."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from topgraft.system.columns import printable
from topgraft.system.reprs import Grid, Overview, Shown, as_html, as_text

ROWS = tuple((f"class {at}", f"{10**at:,}") for at in range(12))
GRID = Grid(("name", "count"), ROWS, lambda row: row, "classes")


def test_a_table_aligns_numbers_and_says_how_many_rows_it_leaves_out() -> None:
    assert as_text(Overview("A title", {"first": "one", "a second": "two", "none": ""}, (GRID,))).splitlines() == [
        "A title",
        "first     one",
        "a second  two",
        "name                count",
        "class 0                 1",
        "class 1                10",
        "class 2               100",
        "… 7 more classes",
        "class 10   10,000,000,000",
        "class 11  100,000,000,000",
    ]


def test_a_table_of_which_all_rows_fit_has_no_gap() -> None:
    short = Grid(GRID.columns, ROWS[:8], GRID.cells, "classes")
    assert as_text(Overview("A title", {}, (short,))).splitlines()[2:] == [f"{a:<7}  {b:>10}" for a, b in ROWS[:8]]
    assert "more" not in as_html(Overview("A title", {}, (GRID,)))


def test_a_name_loses_its_middle_before_a_number_does() -> None:
    path = "photos/" + "x" * 100 + "/0001.jpg"
    text = as_text(Overview("A title", {}, (Grid(("image", "count"), [(path, "123,456")], lambda row: row),)))
    line = text.splitlines()[-1]
    assert line.startswith("photos/xxx")
    assert line.endswith("xx/0001.jpg  123,456")
    assert len(line) == 80


def test_a_line_drops_the_facts_that_it_has_no_room_for() -> None:
    facts = {"name": "a" * 50 + ".jpg", "label": "3", "path": "b" * 50, "sha256": "c" * 12}
    assert as_text(Overview("Sample", facts, one_line=True)) == (
        "Sample(name=aaaaaaaaaaaa…aaaaaaa.jpg, label=3, path=bbbbbbbbbbbb…bbbbbbbbbbb, …)"
    )
    assert as_text(Overview("Sample", {"name": "a", "label": "3"}, one_line=True)) == "Sample(name=a, label=3)"


def test_wide_characters_are_counted_as_two_columns() -> None:
    rows = [("漢字", "1"), ("ant", "20")]
    assert as_text(Overview("A title", {}, (Grid(("name", "n"), rows, lambda row: row),))).splitlines()[2:] == [
        "漢字   1",
        "ant   20",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Käfer 漢字 🐜", "Käfer 漢字 🐜"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("two\nlines\r\x85", "two\\nlines\\r\\x85"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_html_escapes_and_aligns() -> None:
    page = as_html(Overview("A <title>", {"a & b": "<i>"}, (Grid(("name", "n"), [("<b>", "1")], lambda row: row),)))
    assert page == (
        '<div class="tex2jax_ignore mathjax_ignore"><p><b>A &lt;title&gt;</b></p>'
        '<table><tbody><tr><th scope="row" style="text-align:left;vertical-align:top">a &amp; b</th>'
        '<td style="text-align:left">&lt;i&gt;</td></tr></tbody></table>'
        '<table><thead><tr><th style="text-align:left">name</th><th style="text-align:right">n</th></tr></thead>'
        '<tbody><tr><td style="text-align:left">&lt;b&gt;</td><td style="text-align:right">1</td></tr></tbody></table>'
        "</div>"
    )


def test_only_the_rows_that_are_shown_are_made() -> None:
    made: list[int] = []

    def cells(row: int) -> tuple[str]:
        made.append(row)
        return (str(row),)

    as_text(Overview("A title", {}, (Grid(("row",), range(10**9), cells),)))
    assert len(made) < 10


def test_a_record_with_slots_keeps_its_overview() -> None:
    @dataclass(frozen=True, slots=True, repr=False)
    class Point(Shown, overview=lambda this: Overview("Point", {"x": str(this.x)}, one_line=True)):
        x: int

    assert repr(Point(3)) == "Point(x=3)"
    assert "<td" in Point(3)._repr_html_()
