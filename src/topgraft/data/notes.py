"""Print notes about images and the list of unreadable files."""

from __future__ import annotations

from collections.abc import Sequence

from topgraft.system import progress

from .samples import Unreadable


def print_notes(notes: Sequence[str], unreadable: Sequence[Unreadable]) -> None:
    """Print how images were found and divided, and what was left out, on standard error; nothing when quiet."""
    for note in notes:
        progress.note(f"note: {note}")
    if unreadable:
        listed = "".join(f"\n  {entry.name}: {entry.reason}" for entry in unreadable)
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
        progress.note(f"left out {files} that cannot be read:{listed}")
