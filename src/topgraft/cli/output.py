"""What several verbs print in the same way: one JSON object, and results in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
