"""Format numbers, durations, paths and lists, the same in every message and table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

NAMES_IN_LINE = 8  # names of a list that is shown in one line


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``1,024 images``, ``2 classes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """The first names, and their number if there are more."""
    return ", ".join(names[:NAMES_IN_LINE]) + (f" … ({len(names):,} in all)" if len(names) > NAMES_IN_LINE else "")


def shape(sides: Sequence[int]) -> str:
    """``32×112×112``."""
    return "×".join(map(str, sides))


def reason_of(error: OSError) -> str:
    """``permission denied``: the system's words for an error, as the end of a message."""
    return (error.strerror or str(error)).lower()


SPLIT_LABELS = {"train": "train", "val": "validation", "test": "test"}


def split_label(split: str, used_for_selection: bool, before_refit: bool = False) -> str:
    """``validation, used for selection``: how a split is named next to its numbers."""
    selected = ", used for selection" if used_for_selection else ""
    return SPLIT_LABELS[split] + selected + (", before the refit" if before_refit else "")


def share(value: float, digits: int = 1) -> str:
    """A fraction of 1 in percent: ``95.4 %``.

    Args:
        value: fraction of 1.
        digits: number of decimals.
    """
    return f"{100 * value:.{digits}f} %"


def percent(interval: Mapping[str, Any]) -> str:
    """``95.4 % (95 % interval 90.9 to 97.8, n = 153)``."""
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{share(interval['value'])} (95 % interval {low:.1f} to {high:.1f}, n = {interval['n']:,})"


def image_counts(images: Mapping[str, int], unreadable: int) -> str:
    """``train 45, validation 13, test 16 (not decoded by the fit); left out 2 files that cannot be read``.

    Args:
        images: split → images that a fit used; for test the images that exist, as a fit does not decode them.
        unreadable: number of files that were left out.
    """
    counts = [f"{SPLIT_LABELS[split]} {n:,}" for split, n in images.items() if n]
    if images.get("test"):
        counts[-1] += " (not decoded by the fit)"
    files = "1 file" if unreadable == 1 else f"{unreadable:,} files"
    return ", ".join(counts) + (f"; left out {files} that cannot be read" if unreadable else "")


def in_points(share: float) -> str:
    """A fraction of 1 as points with one decimal; never ``-0.0``."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def shown(path: PurePath | str) -> str:
    """A path as text with forward slashes. Bytes of a name that are not UTF-8 are shown as ``\\xNN``."""
    text = path.as_posix() if isinstance(path, PurePath) else path
    return os.fsencode(text).decode("utf-8", "backslashreplace") if os.name != "nt" else text


def listing(items: Iterable[str], most: int = 8) -> str:
    """``a, b, c and 4 more``."""
    names = list(items)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def duration(seconds: float) -> str:
    """A duration: ``40 s``, ``2 min 30 s``, ``12 min``, ``2 h 30 min``."""
    if round(seconds) < 90:
        return f"{seconds:.0f} s"
    if round(seconds) < 3600:
        whole, rest = divmod(round(seconds), 60)
        return f"{whole} min {rest} s" if rest else f"{whole} min"
    whole, rest = divmod(round(seconds / 60), 60)
    return f"{whole:,} h {rest} min" if rest else f"{whole:,} h"
