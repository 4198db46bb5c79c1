"""Train the whole network: much data and much compute, or weights that know nothing yet."""

from __future__ import annotations

from collections.abc import Sequence

from .facts import HEAD, Facts, done, unfrozen
from .history import EpochRecord
from .plan import Phase, Rule


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """Published weights: the head is solved first, then every group trains, at rates that fall towards the image.

    That order keeps the features from being torn by a head that knows nothing yet
    (https://arxiv.org/abs/2202.10054, LP-FT). Random weights: one phase in which every group trains at the same rate.
    """
    if not facts.pretrained:
        return None if history else Phase("full", (Rule("*", 1.0),), facts.epochs, facts.lr)
    if not history:
        return HEAD
    return Phase("full", unfrozen(groups, groups[0]), facts.epochs, facts.lr) if done(history) == 1 else None
