"""Keep the layers near the image, train the rest and the classifier: the question is how far down."""

from __future__ import annotations

from collections.abc import Sequence

from topgraft.errors import UsageError

from .facts import HEAD, Facts, done, suggested, unfrozen
from .history import EpochRecord
from .plan import Phase


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """The head is solved first; then it trains with the groups from `Facts.first` on, or from where the probes say.

    Raises:
        UsageError: the weights are random, so that frozen layers would stay so; or there is no such group.
    """
    if not facts.pretrained:
        raise UsageError("partial keeps layers that know something, and random weights know nothing; use full")
    first = facts.first or suggested(groups, facts)
    rules = unfrozen(groups, first)  # a wrong group is said before the work
    if not history:
        return HEAD
    return Phase(f"partial from {first}", rules, facts.epochs, facts.lr) if done(history) == 1 else None
