"""Keep the convolutional base, train only the classifier: little data, weak compute, or a task like the original."""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import Phase, Rule
from ..records import EpochRecord
from .spec import Facts


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """One phase: every group frozen but ``head``, which is solved on the features of the frozen base."""
    if history:
        return None
    return Phase("head", (Rule("head", 1.0), Rule("*", None)))
