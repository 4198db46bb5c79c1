"""Why a fit did what it did: for its config and its summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topgraft.strategies import auto
from topgraft.strategies.facts import Facts, suggested
from topgraft.strategies.history import EpochRecord, standing
from topgraft.system import formatting
from topgraft.system.formatting import share

from .loop import Outcome


def explained(groups: Sequence[str], facts: Facts, records: Sequence[EpochRecord]) -> dict[str, Any]:
    """What ``auto`` knew, and what it would have tried with more time."""
    return {
        "images_per_class": facts.train_images / facts.classes,
        "probes": {name: facts.probes[name] for name in groups if name in facts.probes},
        "probe_images": facts.probe_images,
        "familiarity": facts.familiarity,
        "why": reasoned(groups, facts),
        "suggested": suggested(groups, facts),
        "unfreeze_schedule": list(auto.unfreeze_schedule(groups, facts)),
        "epoch_seconds": dict(facts.epoch_seconds),
        "setup_seconds": dict(facts.setup_seconds),
        "budget": facts.budget,
        "spent": facts.spent,
        "untried": auto.untried(groups, facts, records),
    }


def reasoned(groups: Sequence[str], facts: Facts) -> list[str]:
    """The rule of the notes in numbers, line by line: how much data, how like the original task, how much compute."""
    per_class = facts.train_images / facts.classes
    selecting = "cross-validation" if facts.folds else "validation"
    candidates = auto.unfreeze_schedule(groups, facts)
    rows = [
        (
            "data",
            f"{facts.train_images:,} training images, {per_class:,.0f} for each of {facts.classes} classes; "
            f"{facts.val_images:,} validation images, so {selecting} chooses",
        )
    ]
    if facts.familiarity is not None:
        rows.append(
            (
                "familiar",
                f"the published classifier is {share(facts.familiarity, 0)} sure of its best answer on your images, "
                "on average",
            )
        )
    if facts.probes:
        # By the groups: a checkpoint does not keep the order.
        shown = ", ".join(f"{name} {100 * facts.probes[name]:.1f}" for name in groups if name in facts.probes)
        rows.append(
            ("features", f"a linear head after each group answers right, in %: {shown} (n = {facts.probe_images:,})")
        )
        rows.append(
            ("cut", f"general features stop helping below {candidates[0]}, which is where training would begin")
        )
    if facts.epoch_seconds:
        speeds = ", ".join(f"from {rung} {formatting.duration(facts.epoch_seconds[rung])}" for rung in candidates)
        rows.append(("compute", f"an epoch takes about: {speeds}"))
    if facts.budget is not None:
        rows.append(
            ("budget", f"{formatting.duration(facts.budget)}, of which {formatting.duration(facts.spent)} are gone")
        )
    return [f"{name:<9} {text}" for name, text in rows]


def kept(facts: Facts, records: Sequence[EpochRecord], outcome: Outcome) -> str:
    """What ``auto`` has kept and why, in one sentence: against the head where more was trained, and the other way."""
    phase = outcome.selection["phase"]
    found = auto.tried(facts, records)
    mine = next(record for record in reversed(found) if record.name == phase)
    others = [record for record in found if record is not mine]
    where = "images out of fold" if facts.folds and facts.pretrained else "validation images"
    right = f"right for {_right(mine)} of {mine.val_top1.n if mine.val_top1 else 0:,} {where}"
    if "epoch" in outcome.selection:
        epoch = f"kept: epoch {outcome.selection['epoch']} of training {phase}, {right}"
        return f"{epoch}, where the head alone has {_right(found[0])}" if others else epoch
    trained = {record.name for record in records if record.epoch and not record.folds}
    if others:
        other = max(others, key=standing)
        why = f"training {other.name} came to {_right(other)}"
        if standing(other) > standing(mine):
            fared = "was no better when it was trained" if other.name in trained else "could not be trained in the time"
            why = f"{why} out of fold, and {fared}"
    elif outcome.stalled:
        why = f"training {outcome.stalled[0]} lost what the network knew"
    elif outcome.interrupted:
        why = "Ctrl-C came before more was trained"
    elif facts.trainable:
        why = "no time was left to train more"
    else:
        return f"kept: the head, {right}"
    return f"kept: the head alone, {right}, as {why}"


def _right(record: EpochRecord) -> str:
    return "none" if record.val_top1 is None else share(record.val_top1.value)


def remarks(outcome: Outcome, facts: Facts, records: Sequence[EpochRecord]) -> list[str]:
    """What a user should be told about how it went."""
    stepped = [phase.name for phase in outcome.taken if not phase.solves_head]
    remarks = [*outcome.remarks, *_short_of_time(facts, records)]
    if stepped and outcome.selection["phase"] not in stepped and facts.budget is None:  # with one, `kept` says it
        remarks.append(
            f"no epoch of {' or '.join(stepped)} was better on the validation images than the head alone, which is kept"
        )
    if outcome.stalled:
        remarks.append(
            f"{' and '.join(outcome.stalled)} lost what the network knew and was given up; a lower --lr may hold"
        )
    if outcome.interrupted:
        remarks.append("the fit was stopped by Ctrl-C; the best state until then is kept")
    return remarks


def _short_of_time(facts: Facts, records: Sequence[EpochRecord]) -> list[str]:
    """What a budget was too short for, if for less than one epoch."""
    if facts.budget is None or not facts.trainable or not records:
        return []
    budget, last = formatting.duration(facts.budget), records[-1]
    taken = facts.spent + sum(record.seconds for record in records)
    if facts.pretrained and last.phase == 0 and taken > facts.budget:
        return [
            f"the head was fitted to all images, which took {formatting.duration(taken)} of a budget of {budget}; "
            "no time was left to train more than the head"
        ]
    seen = facts.train_images if last.train_top1 is None else last.train_top1.n
    if not facts.pretrained and last.epoch == 1 and seen < facts.train_images:
        return [
            f"the budget of {budget} ended training after {seen:,} of the {facts.train_images:,} images of the "
            "first epoch; a larger --budget trains longer"
        ]
    return []
