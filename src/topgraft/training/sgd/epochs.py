"""One phase of gradient steps: the loop that trains the groups that a table does not freeze."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft import metrics
from topgraft.errors import NotANumberError, TrainingStalledError
from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.strategies import history
from topgraft.strategies.defaults import STALL_STEPS
from topgraft.strategies.history import EpochRecord, standing
from topgraft.strategies.plan import Phase
from topgraft.system import formatting, progress
from topgraft.system.gpu import exact_convolutions
from topgraft.system.threads import freed_memory_kept
from topgraft.training.inputs import TrainingInputs
from topgraft.training.state import EpochProgress, Keep, Position, position_of, resume, trained

from .divergence import BLOCK, at_chance, curve_of, has_diverged, is_learning, try_lower_lrs
from .optimizers import penalty, schedule, set_rates, warm_up
from .step import Run, Step, StepChoices, fuse_frozen, one_step, shuffled, validate

_REHEARSAL = 3  # steps on a copy, of which the first warms up, to say how long it will take
_JUDGED = 1 / 3  # of the seconds that stepping on an image takes: it runs forward and not back
_REHEARSED = 15  # a phase of so many times as many steps is long enough to be asked about


def run_phase(
    classifier: Classifier,
    phase: Phase,
    number: int,
    rows: Mapping[str, float | None],
    material: TrainingInputs,
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    choices: StepChoices,
    keep: Keep | None = None,
    resumed: Position | None = None,
    anchor: Mapping[str, torch.Tensor] | None = None,
) -> Generator[EpochRecord, None, None]:
    """Train for the phase's epochs; yields a record after each. The best epoch by validation is what stays.

    Best is the most right answers, on ties the lowest log loss at its best temperature. Where the generator is
    closed early, or interrupted, the best epoch until then stays.

    Args:
        classifier: changed in place; on the CPU and in evaluation mode before and after.
        phase: with epochs and rate.
        number: of the phase, from 0.
        rows: `topgraft.strategies.plan.table` of its rules.
        material: labeled images, as the first group that trains takes them, or before.
        train, val: indices of those that train and that judge.
        choices: how to step.
        keep: is given the position after each epoch and every few minutes.
        resumed: where an earlier run of the same phase was; frozen groups are as it had them.
        anchor: what `StepChoices.l2_sp` pulls to; None for the state that the phase begins with.

    Raises:
        TrainingStalledError: see `StepChoices.stalled`.
        NotANumberError: an answer to a validation image.
    """
    mark = time.perf_counter()
    end = math.inf if phase.seconds is None else mark + phase.seconds - (0.0 if resumed is None else resumed.spent)
    classifier.to(device=choices.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = classifier.snapshot()
    pulled = started if anchor is None else {key: tensor.to(choices.device) for key, tensor in anchor.items()}
    run = Run(classifier, rows, material, train, val, choices, started, pulled)
    memory = ExitStack()
    now = EpochProgress(phase.lr)
    optimizer = run.optimizer(phase.lr)
    best: dict[str, torch.Tensor] = {}
    mean = classifier.snapshot() if choices.ema else {}
    if resumed is not None:
        now, optimizer = resume(run, resumed, best, mean)
    run = replace(run, folded=fuse_frozen(run))  # of the state that it continues from: what is frozen is folded once
    try:
        memory.enter_context(freed_memory_kept() if choices.device == "cpu" else exact_convolutions())
        if resumed is None and not phase.folds:
            _say_how_long(run, phase)
        ends = -(-_all_steps(run, phase) // _steps(run))  # the epoch within which, or after which, it ends
        while now.epoch <= ends:
            began = mark - now.elapsed  # what came before the first step, and keeping, is a part of the next epoch
            try:
                cut = _epoch(run, optimizer, phase, now, mean, best, began, end, keep)
            except TrainingStalledError as stall:
                if choices.stalled != "lower" or stall.rate is None:
                    raise
                # Completed epochs stay completed. Those of a rate that was too high have learned nothing;
                # what breaks later may have.
                origin = best if best and len(now.first) >= _early(run, phase) else run.started
                where = "the start" if origin is run.started else "the best epoch"
                progress.note(f"{stall}\ngoing on with the rate {stall.rate:g}, from {where}")
                classifier.load_state_dict(origin)
                mark = time.perf_counter()
                now = replace(
                    now, lr=stall.rate, since=(now.epoch - 1) * _steps(run), elapsed=mark - began,
                    step=0, losses=[], right=0, seen=0, first=[], looked=False,
                )  # fmt: skip
                optimizer = run.optimizer(now.lr)
                mean = classifier.snapshot() if choices.ema else {}
                continue
            record = _judge(run, now, mean, phase, number)
            mark = time.perf_counter()
            record = replace(record, seconds=mark - began)
            if now.best is None or choices.keep_last or standing(record) > tuple(now.best):
                now.best, now.behind = list(standing(record)), 0
                best.clear()
                best.update(classifier.snapshot() if not mean else {k: v.clone() for k, v in mean.items()})
            else:
                now.behind += 1
            # Where not even its validation would fit, no further epoch is begun.
            cut = cut or mark + now.validating > end
            stopping = cut or (choices.patience is not None and now.behind >= choices.patience)
            epoch = now.epoch + 1 if not stopping else ends + 1
            now = replace(
                now, epoch=epoch, step=0, losses=[], right=0, seen=0, elapsed=0.0, spent=now.spent + record.seconds
            )
            if stopping and not cut and record.epoch < ends:
                progress.note(f"stopped after epoch {record.epoch}: {now.behind} epochs in a row were no better")
            yield record  # before the state is saved: a fit that is stopped meanwhile has the best epoch's record
            if keep is not None:
                keep(position_of(run, optimizer, now, best, mean))
    finally:
        if best:
            classifier.load_state_dict(best)
        classifier.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        classifier.eval()
        memory.close()


def _steps(run: Run) -> int:
    """Of an epoch."""
    return -(-len(run.train) // run.choices.batch_size)


def _early(run: Run, phase: Phase) -> int:
    """Steps in which a rate is looked at: until it has come to its height, and a little longer."""
    return max(STALL_STEPS, warm_up(run.choices.schedule, phase.epochs * _steps(run)) + 2 * BLOCK)


def _all_steps(run: Run, phase: Phase) -> int:
    """Of a phase, until it ends."""
    return phase.epochs * _steps(run) if phase.until is None else max(1, round(phase.until * _steps(run)))


# --- One epoch ------------------------------------------------------------------------------------------------------


def _epoch(
    run: Run,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    now: EpochProgress,
    mean: dict[str, torch.Tensor],
    best: Mapping[str, torch.Tensor],
    began: float,
    end: float,
    keep: Keep | None,
) -> bool:
    """The epoch's steps from where it is; True where the phase's time, which is up at `end`, has run out."""
    choices, steps = run.choices, _steps(run)
    total, before = phase.epochs * steps, (now.epoch - 1) * steps
    kept = time.perf_counter()
    chance = run.chance
    early = _early(run, phase)
    with progress.bar(f"epoch {now.epoch} of {phase.epochs}", len(run.train), stays=False) as bar:
        bar.advance(now.step * choices.batch_size)
        walk = _walk(run, optimizer, phase, now, mean, total)
        last = min(steps, _all_steps(run, phase) - before)
        judging, seconds = now.validating, time.perf_counter()
        while block := _block(walk, min(BLOCK, last - now.step), end - judging):
            now.losses += [float(step.loss) for step in block]
            now.right += sum(int(step.right) for step in block)
            now.seen += sum(step.images for step in block)
            now.step += len(block)
            bar.advance(sum(step.images for step in block))
            stepped = before + now.step - now.since
            if not now.validating:  # nothing was validated yet
                each = (time.perf_counter() - seconds) / max(1, sum(step.images for step in block))
                judging = _JUDGED * len(run.val) * each
            looks = stepped - len(block) < early
            if looks:
                now.first += now.losses[len(now.losses) - len(block) :]
            if looks or not math.isfinite(sum(now.losses[-BLOCK:])):
                _look(run, now, looks and stepped >= early, chance, stepped, end - judging)
            seconds = time.perf_counter()
            if seconds > end - judging:
                return True
            if keep is not None and seconds - kept > 60 * choices.keep_minutes and now.step < steps:
                now.elapsed = seconds - began
                keep(position_of(run, optimizer, now, best, mean))
                kept = time.perf_counter()
    return False


def _block(walk: Iterator[Step], most: int, end: float) -> list[Step]:
    """The next steps, after which a GPU is waited for; fewer where the clock comes to `end`."""
    block: list[Step] = []
    for step in islice(walk, most):
        block.append(step)
        if time.perf_counter() > end:
            break
    return block


def _walk(
    run: Run,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    now: EpochProgress,
    mean: dict[str, torch.Tensor],
    total: int,
) -> Iterator[Step]:
    """Step on every batch of the epoch that is left. Everything random comes from (seed, epoch, step)."""
    choices = run.choices
    before = (now.epoch - 1) * _steps(run)
    order = shuffled(run.train, choices.seed, now.epoch)[now.step * choices.batch_size :]
    batches = run.material.batches(order, choices.batch_size, now.epoch)
    for step, (images, labels) in enumerate(batches, start=now.step):
        set_rates(optimizer, schedule(choices.schedule, before + step, total))
        taken = one_step(run, optimizer, images, labels, (choices.seed, now.epoch, step))
        for key, tensor in trained(run).items() if mean else ():
            if tensor.is_floating_point():
                # The running mean of few steps is that of all of them, not of the start.
                mean[key].lerp_(tensor, max(1 - choices.ema, 1 / (before + step - now.since + 2)))
            else:
                mean[key].copy_(tensor)
        yield taken  # at the end: a position that is saved then has all of the step


# --- Validation -----------------------------------------------------------------------------------------------------


def _judge(run: Run, now: EpochProgress, mean: Mapping[str, torch.Tensor], phase: Phase, number: int) -> EpochRecord:
    """The record of the epoch that has ended, without its seconds."""
    began = time.perf_counter()
    trained = run.classifier.snapshot() if mean else {}
    if mean:
        run.classifier.load_state_dict(mean)
    logits, labels = validate(run)
    if mean:
        run.classifier.load_state_dict(trained)
    if not np.isfinite(logits).all():
        raise NotANumberError(
            f"after epoch {now.epoch} the output for a validation image is not a number, at learning rate {now.lr:g}; "
            "lower --lr"
        )
    right = metrics.is_correct(logits, labels)
    now.validating = time.perf_counter() - began
    return EpochRecord(
        phase=number,
        name=phase.name,
        epoch=now.epoch,
        seconds=0.0,
        train_loss=sum(now.losses) / max(len(now.losses), 1) + penalty(run.groups, run.rows, run.choices.l2),
        train_top1=metrics.wilson(now.right, now.seen),
        val_loss=metrics.log_loss(logits, labels),
        val_top1=metrics.wilson(int(right.sum()), len(right)),
        lr=now.lr,
        curve=curve_of(now.losses),
        epochs=phase.epochs,
        hits=history.pack(right),
        scaled_loss=metrics.scaled_log_loss(logits, labels),
    )


# --- Where it does not learn ----------------------------------------------------------------------------------------


def _look(run: Run, now: EpochProgress, last: bool, chance: float, steps: int, end: float) -> None:
    """Raise where the rate is too high: the loss is not a number, or, at the `last` look, stays at chance or was lost.

    Under a time limit lower rates are tried only until it is up, and where published weights are at stake only if one
    of them is to take over or to be named to a user: who has set the limit has something to fall back on.
    """
    choices, broken = run.choices, not math.isfinite(sum(now.losses[-BLOCK:]))
    lost = choices.pretrained and has_diverged(now.first, chance)
    stuck = last and at_chance(now.first, chance)
    if not broken and (choices.stalled == "ignore" or now.looked or not (lost or stuck)):
        return
    now.looked = True
    reached = run.classifier.snapshot()
    try:
        seen = now.losses if broken else now.first  # a loss may break later than is looked at otherwise
        lowers = choices.stalled == "lower" or math.isinf(end) or not choices.pretrained or choices.own_rate

        def try_rate(rate: float) -> list[float]:
            return _try_rate(run, rate, chance, lost, end)

        stall = try_lower_lrs(now.lr, seen, chance, lost, try_rate if lowers else None, steps)
    finally:
        run.classifier.load_state_dict(reached)
    if stall is not None:
        raise stall


def _try_rate(run: Run, lr: float, chance: float, known: bool, end: float) -> list[float]:
    """Losses of another rate on the same batches from the start, until it has shown that it learns, or holds."""
    run.classifier.load_state_dict(run.started)
    optimizer, losses = run.optimizer(lr), list[float]()
    steps = 2 * BLOCK if known else STALL_STEPS
    with progress.bar(f"trying {lr:g}", steps, "steps") as bar:
        phase = Phase("try", (), 1, lr)
        twin = replace(run, choices=replace(run.choices, schedule="constant"))
        # Few images are used again, as in the phase.
        walk = chain.from_iterable(
            _walk(twin, optimizer, phase, EpochProgress(lr, epoch=epoch), {}, 1) for epoch in range(1, steps + 1)
        )
        while time.perf_counter() <= end and (block := _block(walk, BLOCK, end)):
            losses += [float(step.loss) for step in block]
            bar.advance(len(block))
            ended = len(losses) >= steps or not math.isfinite(sum(losses[-BLOCK:]))
            if ended or (not known and is_learning(losses, chance, known)):
                break
    return losses


# --- Before it runs -------------------------------------------------------------------------------------------------


def _say_how_long(run: Run, phase: Phase) -> None:
    """Say where it runs and about how long it will take, from a few steps of a copy."""
    choices = run.choices
    steps = _all_steps(run, phase)
    if steps < _REHEARSED * _REHEARSAL:
        return
    classifier = copy.deepcopy(run.classifier)
    twin = replace(run, classifier=classifier)
    freeze.apply(twin.groups, run.rows)
    twin = replace(twin, folded=fuse_frozen(twin))
    marks = [time.perf_counter()]
    for step in islice(_walk(twin, twin.optimizer(phase.lr), phase, EpochProgress(phase.lr), {}, steps), _REHEARSAL):
        float(step.loss)
        marks.append(time.perf_counter())
    gaps = [after - before for before, after in pairwise(marks)]
    if not gaps:
        return
    seconds = min(gaps[1:] or gaps)  # the first warms up
    rate = choices.batch_size / seconds
    progress.note(
        f"{phase.name}: training on {choices.device} in {choices.precision}, batches of {choices.batch_size}: "
        f"{steps:,} steps, about {rate:,.0f} images/s, {formatting.duration(steps * seconds)}"
    )
