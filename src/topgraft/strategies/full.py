"""Train the whole network: much data and much compute, or weights that know nothing yet."""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import Phase, Rule
from ..records import EpochRecord
from .spec import Facts


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """One phase in which every group trains at the same rate."""
    if history:
        return None
    return Phase("full", (Rule("*", 1.0),), facts.epochs, facts.lr)
