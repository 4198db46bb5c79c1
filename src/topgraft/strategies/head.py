"""Keep the convolutional base, train only the classifier: little data, weak compute, or a task like the original."""

from __future__ import annotations

from collections.abc import Sequence

from .facts import HEAD, Facts
from .history import EpochRecord
from .plan import Phase


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """One phase: every group frozen but ``head``, which is solved on the features of the frozen base."""
    return None if history else HEAD
