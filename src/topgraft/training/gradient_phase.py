"""A phase of gradient steps on the groups that its table does not freeze."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from topgraft.errors import OutOfTimeError
from topgraft.strategies.defaults import LEARNING_RATES
from topgraft.strategies.history import EpochRecord, standing
from topgraft.strategies.plan import Phase
from topgraft.system import progress
from topgraft.training.head.logistic import class_weights
from topgraft.training.sgd.epochs import run_phase
from topgraft.training.sgd.high_rates import too_high
from topgraft.training.sgd.lr_finder import lr_range_test
from topgraft.training.sgd.optimizers import penalty
from topgraft.training.sgd.step import StepChoices

from .inputs import TrainingInputs
from .state import Job, Position, TrainingState

_TESTING = 0.2  # share of a phase's time that the range test may take


def step(
    job: Job, now: TrainingState, phase: Phase, number: int, rows: Mapping[str, float | None]
) -> Generator[EpochRecord, None, None]:
    """Train the groups that the table does not freeze; what is better than the best so far is the best from now on."""
    began = time.perf_counter()
    material, steps = prepare_phase(job, now, phase, rows)
    if now.position is None:
        phase = now.under_way = with_rate(job, now, phase, rows, material, steps)
    steps = replace(steps, keep_last=phase.keep_last)
    mine: list[EpochRecord] = [record for record in now.history if record.phase == number]
    again = time.perf_counter() - began
    now.lead += again
    lead = again if mine else now.lead  # filling a cache is a part of the first epoch

    def keep(position: Position) -> None:
        job.keep(replace(now, position=position))

    # What came before the first step is a part of the phase's time.
    timed = phase if phase.seconds is None else replace(phase, seconds=phase.seconds - now.lead)
    run = run_phase(
        job.classifier, timed, number, rows, material, job.inputs.train, job.inputs.val, steps, keep, now.position,
        job.published,
    )  # fmt: skip
    try:
        for record in run:
            entry, lead = replace(record, seconds=record.seconds + lead), 0.0
            mine.append(entry)
            now.history.append(entry)
            yield entry
            if entry.lr not in [earlier.lr for earlier in mine[:-1]]:
                before = int(now.standing[0]) if now.standing is not None and steps.pretrained else None
                loss = (entry.train_loss or 0.0) - penalty(dict(job.classifier.groups.items()), rows, steps.l2)
                check_rate(job, now, replace(entry, train_loss=loss), material, steps, before)
    finally:
        run.close()
        best = mine[-1] if mine and phase.keep_last else max(mine, key=standing, default=None)
        images = len(job.inputs.train)
        # A number of epochs was chosen; what was cut before that has to show that it is better.
        whole = phase.keep_last and _whole(mine, phase, images)
        if best is not None and (whole or now.standing is None or standing(best) > now.standing):
            now.standing, now.best = standing(best), job.classifier.snapshot()
            assert best.val_top1 is not None
            judged = {"by": "validation", "images": best.val_top1.n}
            if whole and "by" in now.selection:
                judged = {key: now.selection[key] for key in ("by", "images")}
            now.selection = {**judged, "phase": phase.name, "epoch": best.epoch, "lr": best.lr}
        elif mine:
            progress.note(f"{phase.name}: no epoch is better than what was there before, which stays")
        if mine:  # also of a phase that Ctrl-C has ended
            now.taken.append(_as_run(phase, mine, images, steps.batch_size))


def _as_run(phase: Phase, records: Sequence[EpochRecord], images: int, batch_size: int) -> Phase:
    """A phase as it can be run again: with the rate that it ended up at, and only as far as it came."""
    last = records[-1]
    rates = {record.lr for record in records}
    if last.lr is not None and len(rates) == 1:
        phase = replace(phase, lr=last.lr)
    if last.train_top1 is None or _whole(records, phase, images):
        return phase
    steps, stepped = -(-images // batch_size), -(-last.train_top1.n // batch_size)
    return replace(phase, until=last.epoch - 1 + stepped / steps)


def _whole(records: Sequence[EpochRecord], phase: Phase, images: int) -> bool:
    """Whether all epochs of a phase were run, the last one over all images."""
    if not records or records[-1].epoch != phase.ends:
        return False
    last, limited = records[-1].train_top1, phase.seconds is not None or phase.until is not None
    # Without a limit nothing cuts an epoch, and what is missing are views that cannot be made.
    return not limited or (last is not None and last.n >= images)


def check_rate(
    job: Job, now: TrainingState, entry: EpochRecord, material: TrainingInputs, steps: StepChoices, before: int | None
) -> None:
    """Say after the first epoch at a rate that it is too high, where it is; see
    `topgraft.training.sgd.high_rates.too_high`."""
    train, val, labels = job.inputs.train, job.inputs.val, material.labels.numpy()
    judging = np.concatenate([train, val]) if entry.folds else val
    text = too_high(entry, labels[train], labels[judging], before, steps)
    if text is not None:
        progress.note(f"warning: {text}")
        now.remarks.append(text)


def with_rate(
    job: Job,
    now: TrainingState,
    phase: Phase,
    rows: Mapping[str, float | None],
    material: TrainingInputs,
    steps: StepChoices,
) -> Phase:
    """The phase at the rate that a range test suggests, if one is asked for. The same network gives the same rate."""
    if not job.choices.find_lr:
        return phase
    folded = [record.lr for record in now.history if record.folds and record.name == phase.name]
    if folded and folded[0] is not None:
        return replace(phase, lr=folded[0])  # it was tried at that rate
    usual = LEARNING_RATES[steps.optimizer]
    until = math.inf if phase.seconds is None else time.perf_counter() + _TESTING * phase.seconds
    rate, _ = lr_range_test(job.classifier, rows, material, job.inputs.train, steps, usual, until)
    if rate is None:
        progress.note(f"{phase.name}: there is no time to the end of the range test; the learning rate is {phase.lr:g}")
        return phase
    progress.note(f"{phase.name}: the range test suggests the learning rate {rate:g}")
    return replace(phase, lr=rate)


def prepare_phase(
    job: Job, now: TrainingState, phase: Phase, rows: Mapping[str, float | None]
) -> tuple[TrainingInputs, StepChoices]:
    """What a phase steps on, and how.

    Raises:
        OutOfTimeError: making it ready took all of the phase's time.
    """
    assert job.inputs.material is not None
    if phase.seconds is not None:
        # What has begun continues: the time ends it at its next step, and leaves its best epoch.
        begun = now.position is not None or now.folds
        phase = replace(phase, seconds=None if begun else phase.seconds - now.lead)
    began = time.perf_counter()
    material = job.inputs.material(phase, rows)
    late = phase.seconds is not None and time.perf_counter() - began > phase.seconds
    if late and job.facts.budget is not None and now.standing is not None:
        raise OutOfTimeError("the time is up before the first step")  # one alone would change nothing for the better
    weights = None
    if job.choices.class_weight is not None:
        weights = class_weights(material.labels.numpy()[job.inputs.train], job.facts.classes)
    return material, replace(job.choices.steps, class_weights=weights)
