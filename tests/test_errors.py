"""What messages quote is shortened after a word."""

from __future__ import annotations

import pytest

from topgraft.errors import shortened


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("all of it", 9, "all of it"),
        ("all of it fits", 9, "all of…"),
        ("all of it", 8, "all of…"),
        ("image;label;species", 14, "image;label…"),
        ("image,label,species", 14, "image,label…"),
        ("Donaudampfschifffahrt", 8, "Donauda…"),
        ("", 8, ""),
    ],
)
def test_a_long_quotation_ends_after_a_word(text: str, length: int, expected: str) -> None:
    assert shortened(text, length) == expected
    assert len(shortened(text, length)) <= length
