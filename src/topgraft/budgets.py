"""What a budget is for beside the phases, and what is said where it is too small for anything."""

from __future__ import annotations

from dataclasses import dataclass

from . import progress
from .errors import UsageError

AFTER = 2.5
"""Seconds that validating on the engine and saving take beside the images: it is compiled for new weights."""


@dataclass(frozen=True, slots=True)
class Later:
    """What a fit does after training, for its budget.

    Attributes:
        images: that run through the base, each time counted.
        networks: how many bases they run through.
        solves: how often the head is solved again.
    """

    images: int = 0
    networks: int = 0
    solves: int = 0


def require(images: int, each: float, left: float) -> None:
    """Refuse a budget before the work.

    Args:
        images: that have to be gone through before anything else.
        each: seconds that one takes.
        left: seconds of the budget.

    Raises:
        UsageError: they are too few; see `too_small`.
    """
    needed = images * each + AFTER
    if needed > left:
        raise too_small(
            f"{images:,} images take about {progress.duration(needed)}, and "
            f"{progress.duration(max(left, 0.0))} are left of it"
        )


def too_small(why: str) -> UsageError:
    """The error, with what to do."""
    return UsageError(
        f"the budget is too small for even the head: {why}. Give a larger --budget, or --limit to use fewer images"
    )
