"""Time budget: the work that comes after training."""

from __future__ import annotations

from dataclasses import dataclass

AFTER = 2.5
"""Seconds that validating on the engine and saving take besides the images: it is compiled for new weights."""


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """What a fit does after training, for its budget.

    Attributes:
        images: that run through the base, each time counted.
        networks: how many bases they run through.
        solves: how often the head is solved again.
    """

    images: int = 0
    networks: int = 0
    solves: int = 0
