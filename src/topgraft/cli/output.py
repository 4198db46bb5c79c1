"""What several verbs print in the same way: one JSON object, results, notes on standard error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from topgraft.system import progress

if TYPE_CHECKING:
    from topgraft.data.samples import Unreadable
    from topgraft.evaluation.results import Evaluation


def print_json(value: Any) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))


def results(result: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON types."""
    from topgraft.evaluation.chance import judged

    return {
        **asdict(result.metrics),
        "largest_class": asdict(judged(result)),
        "split": result.split,
        "used_for_selection": result.used_for_selection,
        "before_refit": result.before_refit,
        "seen": list(result.seen),
        "unreadable": [asdict(entry) for entry in result.unreadable],
        "notes": list(result.notes),
    }


def remark(notes: Sequence[str], unreadable: Sequence[Unreadable]) -> None:
    """How the images were found and divided, and what was left out, on standard error; nothing when quiet."""
    for note in notes:
        progress.note(f"note: {note}")
    if unreadable:
        listed = "".join(f"\n  {entry.name}: {entry.reason}" for entry in unreadable)
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
        progress.note(f"left out {files} that cannot be read:{listed}")
