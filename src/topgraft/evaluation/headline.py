"""The accuracies of an evaluation, one line each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from topgraft.system.formatting import percent, split_label

if TYPE_CHECKING:
    from .results import Evaluation


def headline(result: Evaluation | None) -> list[str]:
    """The accuracies of an evaluation, one line each; the last is top-1, the number that everything is judged by."""
    if result is None:
        return ["how good it is, is not known: evaluate it on images that it has not seen"]
    label = split_label(result.split, result.used_for_selection, result.before_refit)
    names = {"top-5": result.metrics.top5, "top-1": result.metrics.top1}
    return [f"{name} ({label}): {percent(asdict(found))}" for name, found in names.items() if found is not None]
