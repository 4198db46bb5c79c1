"""One phase of gradient steps: the loop that trains the groups that a table does not freeze."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import freeze, metrics, progress
from .checkpoint import pack_optimizer, section, sections, unpack_optimizer
from .classifier import Classifier
from .defaults import STALL_STEPS
from .errors import Stalled, TopgraftError
from .gpu import exact_convolutions
from .material import Material
from .memory import freed_memory_kept
from .metrics import standing
from .optim import penalty, schedule, set_rates
from .plan import Phase
from .records import EpochRecord
from .stall import BLOCK, at_chance, curve_of, diverges, holds, look_lower
from .stepping import Run, Step, StepChoices, folded_of, one_step, shuffled, validate

_REHEARSAL = 3  # steps on a copy, of which the first warms up, to say how long it will take
_REHEARSED = 15  # a phase of so many times as many steps is long enough to be asked about


@dataclass(frozen=True)
class Position:
    """Where a phase is, and all that its next step depends on.

    Attributes:
        tensors: the network's, the optimizer's, the best epoch's and the running mean's.
        state: JSON-able: epoch, step, losses, rate …
    """

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


Keep = Callable[[Position, EpochRecord | None], None]
"""Takes a position, and the record of the epoch that ended there, if one did."""


@dataclass
class _Now:
    """What changes while a phase runs, but for tensors. All of it goes into a `Position`."""

    lr: float
    epoch: int = 1
    step: int = 0
    losses: list[float] = field(default_factory=list)  # of the epoch
    right: int = 0
    seen: int = 0
    elapsed: float = 0.0  # seconds of the epoch before the last resume
    spent: float = 0.0  # seconds of the phase before this epoch
    best: list[float] | None = None  # standing
    behind: int = 0  # epochs since the best one
    validating: float = 0.0  # seconds that the last validation took
    first: list[float] = field(default_factory=list)  # losses of the first steps of the phase
    looked: bool = False  # whether lower rates were tried and did no better


def run_phase(
    classifier: Classifier,
    phase: Phase,
    number: int,
    rows: Mapping[str, float | None],
    material: Material,
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
        rows: `topgraft.plan.table` of its rules.
        material: labelled images, as the first group that trains takes them, or before.
        train, val: indices of those that train and that judge.
        choices: how to step.
        keep: is given the position after each epoch and every few minutes.
        resumed: where an earlier run of the same phase was.
        anchor: what `StepChoices.l2_sp` pulls to; None for the state that the phase begins with.

    Raises:
        Stalled: see `StepChoices.stalled`.
        TopgraftError: the validation loss is no number.
    """
    classifier.to(device=choices.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = classifier.snapshot()
    pulled = started if anchor is None else {key: tensor.to(choices.device) for key, tensor in anchor.items()}
    run = Run(classifier, rows, material, train, val, choices, started, pulled)
    memory = ExitStack()
    now = _Now(phase.lr)
    optimizer = run.optimizer(phase.lr)
    best: dict[str, torch.Tensor] = {}
    mean = classifier.snapshot() if choices.ema else {}
    if resumed is not None:
        now, optimizer = _resume(run, resumed, best, mean)
    run = replace(run, folded=folded_of(run))  # of the state that it goes on from: what is frozen is folded once
    try:
        memory.enter_context(freed_memory_kept() if choices.device == "cpu" else exact_convolutions())
        if resumed is None and not phase.folds:
            _say_how_long(run, phase)
        while now.epoch <= phase.epochs:
            began = time.perf_counter() - now.elapsed
            try:
                cut = _epoch(run, optimizer, phase, now, mean, best, began, keep)
            except Stalled as stall:
                if choices.stalled != "lower" or stall.rate is None or now.epoch > 1:
                    raise
                # In the first epoch nothing that was learnt is lost.
                progress.note(f"{stall}\ngoing on with the rate {stall.rate:g}, from the start")
                classifier.load_state_dict(run.started)
                now = _Now(stall.rate, elapsed=time.perf_counter() - began)
                optimizer = run.optimizer(now.lr)
                mean = classifier.snapshot() if choices.ema else {}
                continue
            record = _judge(run, now, mean, phase, number)
            record = replace(record, seconds=time.perf_counter() - began)
            if now.best is None or choices.keep_last or standing(record) > tuple(now.best):
                now.best, now.behind = list(standing(record)), 0
                best.clear()
                best.update(classifier.snapshot() if not mean else {k: v.clone() for k, v in mean.items()})
            else:
                now.behind += 1
            stopping = cut or (choices.patience is not None and now.behind >= choices.patience)
            epoch = now.epoch + 1 if not stopping else phase.epochs + 1
            now = replace(
                now, epoch=epoch, step=0, losses=[], right=0, seen=0, elapsed=0.0, spent=now.spent + record.seconds
            )
            if stopping and not cut and record.epoch < phase.epochs:
                progress.note(f"stopped after epoch {record.epoch}: {now.behind} epochs in a row were no better")
            if keep is not None and now.epoch <= phase.epochs:
                keep(_position(run, optimizer, now, best, mean), record)
            yield record
    finally:
        if best:
            classifier.load_state_dict(best)
        classifier.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        classifier.eval()
        memory.close()


# --- One epoch ------------------------------------------------------------------------------------------------------


def _epoch(
    run: Run,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    now: _Now,
    mean: dict[str, torch.Tensor],
    best: Mapping[str, torch.Tensor],
    began: float,
    keep: Keep | None,
) -> bool:
    """The epoch's steps from where it is; True where the phase's time has run out."""
    choices = run.choices
    steps = -(-len(run.train) // choices.batch_size)
    total, before = phase.epochs * steps, (now.epoch - 1) * steps
    kept = time.perf_counter()
    chance = run.chance
    with progress.bar(f"epoch {now.epoch} of {phase.epochs}", len(run.train)) as bar:
        bar.advance(now.step * choices.batch_size)
        walk = _walk(run, optimizer, phase, now, mean, total)
        while block := list(islice(walk, BLOCK)):  # a GPU is waited for once a block
            now.losses += [float(step.loss) for step in block]
            now.right += sum(int(step.right) for step in block)
            now.seen += sum(step.images for step in block)
            now.step += len(block)
            bar.advance(sum(step.images for step in block))
            if before + now.step <= STALL_STEPS:
                now.first += now.losses[len(now.losses) - len(block) :]
            if not math.isfinite(sum(now.losses[-BLOCK:])) or before + now.step <= STALL_STEPS:
                _look(run, now, before + now.step, chance)
            seconds = time.perf_counter()
            if phase.seconds is not None and now.spent + seconds - began + now.validating > phase.seconds:
                return True
            if keep is not None and seconds - kept > 60 * choices.keep_minutes and now.step < steps:
                now.elapsed = seconds - began
                keep(_position(run, optimizer, now, best, mean), None)
                kept = time.perf_counter()
    return False


def _walk(
    run: Run, optimizer: torch.optim.Optimizer, phase: Phase, now: _Now, mean: dict[str, torch.Tensor], total: int
) -> Iterator[Step]:
    """Step on every batch of the epoch that is left. Everything random comes from (seed, epoch, step)."""
    choices = run.choices
    before = (now.epoch - 1) * -(-len(run.train) // choices.batch_size)
    order = shuffled(run.train, choices.seed, now.epoch)[now.step * choices.batch_size :]
    batches = run.material.batches(order, choices.batch_size, now.epoch)
    for step, (images, labels) in enumerate(batches, start=now.step):
        set_rates(optimizer, schedule(choices.schedule, before + step, total))
        taken = one_step(run, optimizer, images, labels, (choices.seed, now.epoch, step))
        for key, tensor in _trained(run).items() if mean else ():
            if tensor.is_floating_point():
                # The running mean of few steps is that of all of them, not of the start.
                mean[key].lerp_(tensor, max(1 - choices.ema, 1 / (before + step + 2)))
            else:
                mean[key].copy_(tensor)
        yield taken  # at last: whoever keeps a position then has all of the step


def _trained(run: Run) -> dict[str, torch.Tensor]:
    """The state of the groups that train. What is frozen is not averaged: the mean of -0 and -0 is 0, another bit."""
    return {
        f"groups.{name}.{key}": tensor
        for name, group in run.groups.items()
        if run.rows[name] is not None
        for key, tensor in group.state_dict().items()
    }


# --- Validation -----------------------------------------------------------------------------------------------------


def _judge(run: Run, now: _Now, mean: Mapping[str, torch.Tensor], phase: Phase, number: int) -> EpochRecord:
    """The record of the epoch that has ended, without its seconds."""
    began = time.perf_counter()
    trained = run.classifier.snapshot() if mean else {}
    if mean:
        run.classifier.load_state_dict(mean)
    logits, labels = validate(run)
    if mean:
        run.classifier.load_state_dict(trained)
    if not np.isfinite(logits).all():
        raise TopgraftError(
            f"after epoch {now.epoch} an answer to a validation image is no number, at the learning rate {now.lr:g}; "
            "lower --lr"
        )
    right = metrics.right(logits, labels)
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
        hits=metrics.pack(right),
        scaled_loss=metrics.scaled_log_loss(logits, labels),
    )


# --- Where it does not learn ----------------------------------------------------------------------------------------


def _look(run: Run, now: _Now, step: int, chance: float) -> None:
    """Raise where the rate is too high: the loss is no number, or at chance, or what was known is lost."""
    broken = not math.isfinite(sum(now.losses[-BLOCK:]))
    lost = not run.choices.updates_batchnorm and diverges(now.first, chance)
    stuck = step == STALL_STEPS and at_chance(now.first, chance)
    if not broken and (run.choices.stalled == "ignore" or now.looked or not (lost or stuck)):
        return
    now.looked = True
    reached = run.classifier.snapshot()
    try:
        seen = now.losses if broken else now.first  # a loss may break later than is looked at otherwise
        stall = look_lower(now.lr, seen, chance, lost, lambda rate: _try_rate(run, rate, chance, lost))
    finally:
        run.classifier.load_state_dict(reached)
    if stall is not None:
        raise stall


def _try_rate(run: Run, lr: float, chance: float, known: bool) -> list[float]:
    """Losses of another rate on the same batches from the start, until it has shown that it learns, or holds."""
    run.classifier.load_state_dict(run.started)
    optimizer, losses = run.optimizer(lr), list[float]()
    steps = 2 * BLOCK if known else STALL_STEPS
    with progress.bar(f"trying {lr:g}", steps, "steps") as bar:
        phase = Phase("try", (), 1, lr)
        twin = replace(run, choices=replace(run.choices, schedule="constant"))
        # Few images are walked over again, as the phase does.
        walk = chain.from_iterable(
            _walk(twin, optimizer, phase, _Now(lr, epoch=epoch), {}, 1) for epoch in range(1, steps + 1)
        )
        while block := list(islice(walk, BLOCK)):
            losses += [float(step.loss) for step in block]
            bar.advance(len(block))
            ended = len(losses) >= steps or not math.isfinite(sum(losses[-BLOCK:]))
            if ended or (not known and holds(losses, chance, known)):
                break
    return losses


# --- Keeping and resuming -------------------------------------------------------------------------------------------


def _position(
    run: Run,
    optimizer: torch.optim.Optimizer,
    now: _Now,
    best: Mapping[str, torch.Tensor],
    mean: Mapping[str, torch.Tensor],
) -> Position:
    packed, plain = pack_optimizer(optimizer)
    tensors = sections(network=run.classifier.state_dict(), optimizer=packed, best=best, mean=mean, started=run.started)
    return Position(tensors, {"now": dict(vars(now)), "optimizer": plain})


def _resume(
    run: Run, position: Position, best: dict[str, torch.Tensor], mean: dict[str, torch.Tensor]
) -> tuple[_Now, torch.optim.Optimizer]:
    def part(name: str) -> dict[str, torch.Tensor]:
        return {key: tensor.to(run.choices.device) for key, tensor in section(position.tensors, name).items()}

    now = _Now(**position.state["now"])
    optimizer = run.optimizer(now.lr)
    run.classifier.load_state_dict(part("network"))
    unpack_optimizer(optimizer, part("optimizer"), position.state["optimizer"])
    best.update(part("best"))
    if run.choices.ema:
        mean.update(part("mean"))
    for key, tensor in part("started").items():
        run.started[key].copy_(tensor)
    return now, optimizer


# --- Before it runs -------------------------------------------------------------------------------------------------


def _say_how_long(run: Run, phase: Phase) -> None:
    """Say where it runs and about how long it will take, from a few steps of a copy."""
    choices = run.choices
    steps = phase.epochs * -(-len(run.train) // choices.batch_size)
    if steps < _REHEARSED * _REHEARSAL:
        return
    classifier = copy.deepcopy(run.classifier)
    twin = replace(run, classifier=classifier)
    freeze.apply(twin.groups, run.rows)
    twin = replace(twin, folded=folded_of(twin))
    marks = [time.perf_counter()]
    for step in islice(_walk(twin, twin.optimizer(phase.lr), phase, _Now(phase.lr), {}, steps), _REHEARSAL):
        float(step.loss)
        marks.append(time.perf_counter())
    gaps = [after - before for before, after in pairwise(marks)]
    if not gaps:
        return
    seconds = min(gaps[1:] or gaps)  # the first warms up
    rate = choices.batch_size / seconds
    progress.note(
        f"{phase.name}: training on {choices.device} in {choices.precision}, batches of {choices.batch_size}: "
        f"{steps:,} steps, about {rate:,.0f} images/s, {progress.duration(steps * seconds)}"
    )
