"""Solve the head, then thaw from the top while it helps and the time lasts; never ends worse than its best phase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .facts import HEAD, Facts, suggested, unfrozen
from .history import EpochRecord, paired_difference, standing, unpack
from .plan import Phase, Rule, shares

_STRIDE = 1.4
"""Least ratio of the cost of a candidate to that of the candidate above it: one more cheap layer decides nothing."""

_SHARE = 0.9
"""Share of the time left that a phase may be predicted to take; the rest is for what predictions miss."""

_LEAST = 0.6
"""Share of the epochs that a rung is worth its time with. On 3,400 photos of CIFAR-10 and five minutes, five epochs
from each of the two highest candidates gave 80.6 %, and four from the lowest that there was time for 85.4 %."""

_FROM = "from "


def next_phase(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> Phase | None:
    """The head; then one candidate after the other, from the group that the probes suggest.

    It stops where a rung loses what was known, or is clearly worse than the best until then, by more than one standard
    error of the paired difference, or where no further one fits into the budget. A rung that would leave too little
    time for the lowest one within reach is passed over. Under 200 validation images a rung is tried by
    cross-validation first, and trained only if it was the best.
    """
    if not facts.pretrained:
        whole = (Rule("*", 1.0),)
        return None if history else Phase("full", whole, facts.epochs, facts.lr, seconds=_left(facts, history))
    if not history:
        return HEAD
    if not facts.trainable:
        return None
    candidates = unfreeze_schedule(groups, facts)
    found = tried(facts, history)
    if facts.folds and _chosen_is_trained(history):
        return None
    if _continues(found) and not facts.stalled:
        phase = _next_candidate(groups, facts, candidates, history)
        if phase is not None:
            return phase
    if facts.folds:
        best = _best(found)
        if best.phase > 0 and best.name not in facts.stalled:
            rules = unfrozen(groups, best.name.removeprefix(_FROM))
            lr = facts.lr if best.lr is None else best.lr
            left, until = _left(facts, history), float(best.epoch)
            if left is not None and left <= 0:
                return None
            return Phase(best.name, rules, best.epochs, lr, seconds=left, until=until, keep_last=True)
    return None


def unfreeze_schedule(groups: Sequence[str], facts: Facts) -> tuple[str, ...]:
    """The groups from which on is trained, one after the other: from the suggested one down to the first."""
    base = [group for group in groups if group != "head"]
    candidates = [suggested(groups, facts)]
    for group in reversed(base[: base.index(candidates[0])]):
        seconds = facts.epoch_seconds
        dearer = seconds.get(group, 1.0) >= _STRIDE * seconds.get(candidates[-1], 0.0)
        if dearer or group == base[0]:
            candidates.append(group)
    return tuple(candidates)


def untried(groups: Sequence[str], facts: Facts, history: Sequence[EpochRecord]) -> str | None:
    """What is worth more time: what the folds chose and was not trained, or, if what was tried last is the best, the
    first rung that was not tried. None where the strategy ended by itself, or what was tried last has lost."""
    if not history or not facts.pretrained or not facts.trainable:
        return None
    found = tried(facts, history)
    best = _best(found)
    if best.folds and best.name not in facts.stalled and not _chosen_is_trained(history):
        return best.name.removeprefix(_FROM)  # what the folds chose, and time did not let be trained
    if best is not found[-1] or facts.stalled:
        return None
    names = {record.name for record in found}
    left = [rung for rung in unfreeze_schedule(groups, facts) if _FROM + rung not in names]
    return left[0] if left else None


def tried(facts: Facts, history: Sequence[EpochRecord]) -> list[EpochRecord]:
    """The best record of the head, and of each rung that was tried: in folds, where those choose."""
    return [record for record in _bests(history) if not facts.folds or record.folds or record.phase == 0]


def _chosen_is_trained(history: Sequence[EpochRecord]) -> bool:
    """Whether the rung that the folds chose has been trained: it comes last."""
    return history[-1].phase > 0 and not history[-1].folds


def _continues(found: Sequence[EpochRecord]) -> bool:
    """Whether the last rung, if one was tried, was not clearly worse than the best before it."""
    return len(found) == 1 or not _worse(found[-1], _best(found[:-1]))


def _next_candidate(
    groups: Sequence[str], facts: Facts, candidates: Sequence[str], history: Sequence[EpochRecord]
) -> Phase | None:
    """The highest rung below those that were tried that leaves time for the lowest within reach; None if none fits."""
    names = [_FROM + rung for rung in candidates]
    below = candidates[names.index(history[-1].name) + 1 :] if history[-1].name in names else candidates
    left = _left(facts, history)
    if left is None:
        return (
            Phase(_FROM + below[0], unfrozen(groups, below[0]), facts.epochs, facts.lr, facts.folds) if below else None
        )
    room, pace = left * _SHARE, _pace(facts, history)
    least = math.ceil(_LEAST * facts.epochs)
    within = [rung for rung in below if pace * _seconds(facts, rung, least) <= room]
    goal = within[-1] if within else None
    for rung in below:
        kept = 0.0 if goal is None or rung == goal else pace * _seconds(facts, goal, least)
        each = pace * (_seconds(facts, rung, 1) - _seconds(facts, rung, 0))
        spare = room - kept - pace * _seconds(facts, rung, 0)
        epochs = facts.epochs if each <= 0 else min(facts.epochs, int(spare / each))
        if epochs >= (1 if goal is None else least) and spare > 0:
            if facts.folds:  # the last of them is for training it, if it is the best
                kept += epochs * each / _passes(facts)
            return Phase(_FROM + rung, unfrozen(groups, rung), epochs, facts.lr, facts.folds, left - kept)
        if goal is None:
            return None
    return None


def _seconds(facts: Facts, rung: str, epochs: int) -> float:
    """What so many epochs of a rung are predicted to take; also those of trying it in folds, where that is done."""
    return facts.setup_seconds.get(rung, 0.0) + _passes(facts) * epochs * facts.epoch_seconds.get(rung, 0.0)


def _passes(facts: Facts) -> float:
    """Passes over the training images that an epoch stands for: all folds', and one more if the rung is the best."""
    if not facts.folds:
        return 1.0
    each, _ = shares(facts.train_images, facts.val_images, facts.folds)
    return facts.folds * each / facts.train_images + 1


def _pace(facts: Facts, history: Sequence[EpochRecord]) -> float:
    """How much longer than predicted the candidates until now took; 1 if they took less."""
    taken = predicted = 0.0
    for record in history:
        if record.name.startswith(_FROM):
            rung = record.name.removeprefix(_FROM)
            taken += record.seconds
            predicted += _seconds(facts, rung, 1) - (_seconds(facts, rung, 0) if record.epoch > 1 else 0.0)
            predicted -= facts.epoch_seconds.get(rung, 0.0) if record.folds else 0.0  # it was not trained yet
    return max(1.0, taken / predicted) if predicted > 0 else 1.0


def _left(facts: Facts, history: Sequence[EpochRecord]) -> float | None:
    """Seconds of the budget that phases may still take."""
    if facts.budget is None:
        return None
    head = sum(record.seconds for record in history if record.phase == 0)
    gone = sum(record.seconds for record in history)
    return facts.budget - facts.spent - facts.reserve - facts.solves * head - gone


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
