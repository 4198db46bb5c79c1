"""Solve the head, then thaw from the top while it helps and the time lasts; never ends worse than its best phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..defaults import FOLDS, SELECTION_MINIMUM
from ..metrics import paired_difference, standing, unpack
from ..plan import Phase, Rule
from ..records import EpochRecord
from .spec import HEAD, Facts, suggested, thawed

_STRIDE = 1.4
"""A rung of the ladder costs at least so many times the one above it: thawing one more cheap layer decides nothing."""

_SHARE = 0.9
"""Share of the time left that a phase may be predicted to take; the rest is for what predictions miss."""


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """The head; then one rung of the ladder after the other, from the group that the probes suggest.

    It stops where a rung is clearly worse than the best until then, by more than one standard error of the paired
    difference, or where the next one would not fit into the budget. Under 200 validation images a rung is tried by
    cross-validation first, and trained only if it was the best.
    """
    if not facts.pretrained:
        return None if history else Phase("full", (Rule("*", 1.0),), facts.epochs, facts.lr)
    if not history:
        return HEAD
    if not facts.trainable:
        return None
    rungs = ladder(groups, facts)
    crossed = facts.val_images < SELECTION_MINIMUM
    tried = _tried(facts, history)
    if crossed and history[-1].phase > 0 and not history[-1].folds:
        return None  # the rung that the folds chose has been trained
    at = len(tried) - 1  # rungs that were tried; the first of `tried` is the head
    if _goes_on(tried):
        phase = _fitting(groups, facts, rungs[at], history, crossed) if at < len(rungs) else None
        if phase is not None:
            return phase
    if crossed:
        best = _best(tried)
        if best.phase > 0:
            rung = rungs[tried.index(best) - 1]
            return Phase(f"from {rung}", thawed(groups, rung), best.epoch, facts.lr, seconds=_left(facts, history))
    return None


def ladder(groups: Sequence[str], facts: Facts) -> tuple[str, ...]:
    """The groups from which on is trained, one after the other: from the suggested one down to the first."""
    base = [group for group in groups if group != "head"]
    rungs = [suggested(groups, facts)]
    for group in reversed(base[: base.index(rungs[0])]):
        seconds = facts.epoch_seconds
        dearer = seconds.get(group, 1.0) >= _STRIDE * seconds.get(rungs[-1], 0.0)
        if dearer or group == base[0]:
            rungs.append(group)
    return tuple(rungs)


def untried(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> str | None:
    """What would have come next with more time; None where the strategy ended by itself."""
    if not history or not facts.pretrained or not facts.trainable:
        return None
    tried = _tried(facts, history)
    rungs, at = ladder(groups, facts), len(tried) - 1
    return rungs[at] if at < len(rungs) and _goes_on(tried) else None


def _tried(facts: Facts, history: Sequence[EpochRecord]) -> list[EpochRecord]:
    """The best record of the head, and of each rung that was tried: in folds, where those choose."""
    crossed = facts.val_images < SELECTION_MINIMUM
    return [record for record in _bests(history) if not crossed or record.folds or record.phase == 0]


def _goes_on(tried: Sequence[EpochRecord]) -> bool:
    """Whether the last rung, if one was tried, was not clearly worse than the best before it."""
    return len(tried) == 1 or not _worse(tried[-1], _best(tried[:-1]))


def _fitting(
    groups: Sequence[str], facts: Facts, rung: str, history: Sequence[EpochRecord], crossed: bool
) -> Phase | None:
    """The rung with as many epochs as the time left has room for; None where that is none."""
    phase = Phase(f"from {rung}", thawed(groups, rung), facts.epochs, facts.lr, FOLDS if crossed else 0)
    if facts.budget is None:
        return phase
    left = _left(facts, history)
    assert left is not None
    # A rung that is tried in folds costs four fifths of its epochs five times, and once more if it is the best.
    times = FOLDS * (FOLDS - 1) / FOLDS + 1 if crossed else 1
    each = times * facts.epoch_seconds.get(rung, 0.0)
    room = left * _SHARE - facts.setup_seconds.get(rung, 0.0)
    epochs = facts.epochs if each <= 0 else min(facts.epochs, int(room / each))
    return replace(phase, epochs=epochs, seconds=left) if epochs >= 1 and room > 0 else None


def _left(facts: Facts, history: Sequence[EpochRecord]) -> float | None:
    """Seconds of the budget that phases may still take."""
    if facts.budget is None:
        return None
    return facts.budget - facts.spent - facts.reserve - sum(record.seconds for record in history)


def _bests(history: Sequence[EpochRecord]) -> list[EpochRecord]:
    """The best record of each phase."""
    phases: dict[int, list[EpochRecord]] = {}
    for record in history:
        phases.setdefault(record.phase, []).append(record)
    return [
        next((record for record in records if record.chosen), None) or max(records, key=standing)
        for records in phases.values()
    ]


def _best(records: Sequence[EpochRecord]) -> EpochRecord:
    """The best of some; the first, which is the shallower, on ties."""
    return max(records, key=standing)


def _worse(record: EpochRecord, best: EpochRecord) -> bool:
    """Whether a record is worse than another by more than one standard error of the paired difference."""
    n = 4 * len(record.hits)  # bits; those that fill the last byte are 0 in both
    difference, error = paired_difference(unpack(record.hits, n), unpack(best.hits, n))
    return difference < -error
