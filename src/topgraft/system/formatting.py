"""Numbers, durations and lists as text, the same in every message and table."""

from __future__ import annotations

from collections.abc import Sequence

NAMES_IN_LINE = 8  # of a list in one line


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``1,024 images``, ``2 classes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    return ", ".join(names[:NAMES_IN_LINE]) + (f" … ({len(names):,} in all)" if len(names) > NAMES_IN_LINE else "")


def shape(sides: Sequence[int]) -> str:
    """``32×112×112``."""
    return "×".join(map(str, sides))
