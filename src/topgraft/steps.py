"""One phase of gradient steps: the loop that trains the groups that a table does not freeze."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from . import freeze, metrics, progress
from .classifier import Classifier
from .defaults import STALL_STEPS
from .errors import Stalled, TopgraftError
from .optim import make_optimizer, penalty
from .pixels import Pixels, epoch, shuffled
from .plan import Phase
from .records import EpochRecord

BLOCK = 25  # steps that one point of a curve averages
_AT_CHANCE = 0.98  # of the loss of a network that knows the classes' shares only: above, nothing has been learnt
_LEARNS = 0.95  # below that share of it, a rate has shown that it learns
_LOWER = (10, 100)  # what the rate is divided by when a lower one is looked for
_REHEARSAL = 4  # steps on a copy, of which the first warm up, to say how long it will take


@dataclass(frozen=True)
class StepChoices:
    """How a phase steps.

    Attributes:
        optimizer, batch_size: see `topgraft.settings.FitSettings`.
        precision: ``bf16`` casts the products; softmax, loss, weights and their sums are float32 in any case.
        device: ``cpu`` or ``cuda``.
        l2: see `topgraft.optim.penalty`.
        class_weights: float64, one for each class, or None.
        updates_batchnorm: whether BatchNorm takes its statistics from the batches, as random weights need.
        stalled: ``stop`` raises where a lower rate learns and this one does not, ``lower`` goes on with it.
        seed: of the order of the images, and of dropout.

    The loss is looked at after `STALL_STEPS` steps of the first epoch, if it has so many, unless `stalled` is
    ``ignore``. A loss that is no number always stops.
    """

    optimizer: str
    batch_size: int
    precision: str
    device: str
    l2: float = 0.0
    class_weights: NDArray[np.float64] | None = None
    updates_batchnorm: bool = False
    stalled: str = "stop"
    seed: int = 0


Curve = tuple[tuple[int, float], ...]
"""Step, and the mean loss of the `BLOCK` steps that end there."""


def run_phase(
    classifier: Classifier,
    phase: Phase,
    number: int,
    rows: Mapping[str, float | None],
    train: Pixels,
    val: Pixels,
    choices: StepChoices,
) -> Generator[EpochRecord, None, None]:
    """Train for the phase's epochs; yields a record after each. The best epoch by validation is what stays.

    Best is the highest top-1, on ties the lowest log loss.

    Args:
        classifier: changed in place; on the CPU and in evaluation mode before and after.
        phase: with epochs and rate.
        number: of the phase, from 0.
        rows: `topgraft.plan.table` of its rules.
        train, val: labelled images.
        choices: how to step.

    Raises:
        Stalled: see `StepChoices.stalled`.
        TopgraftError: the validation loss is no number.
    """
    classifier.to(device=choices.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _Run(classifier, rows, train, choices, _state(classifier))
    best: tuple[tuple[float, float], dict[str, torch.Tensor]] | None = None
    try:
        _say_how_long(run, phase)
        optimizer = run.optimizer(phase.lr)
        for at in range(1, phase.epochs + 1):
            began = time.perf_counter()
            try:
                tally = _epoch(run, optimizer, phase, at)
            except Stalled as stall:
                if choices.stalled != "lower" or stall.rate is None or at > 1:
                    raise
                # In the first epoch nothing that was learnt is lost.
                progress.note(f"{stall}\ngoing on with the rate {stall.rate:g}, from the start")
                classifier.load_state_dict(run.started)
                phase = replace(phase, lr=stall.rate)
                optimizer = run.optimizer(phase.lr)
                tally = _epoch(run, optimizer, phase, at)
            loss, right, n = validate(classifier, val, choices)
            if not math.isfinite(loss):
                raise TopgraftError(
                    f"after epoch {at} the validation loss is {loss} at the learning rate {phase.lr:g}; lower --lr"
                )
            record = EpochRecord(
                phase=number,
                name=phase.name,
                epoch=at,
                seconds=time.perf_counter() - began,
                train_loss=tally.loss + penalty(dict(classifier.groups.items()), rows, choices.l2),
                train_top1=metrics.wilson(tally.right, tally.n),
                val_loss=loss,
                val_top1=metrics.wilson(right, n),
                lr=phase.lr,
                curve=tally.curve,
            )
            if best is None or standing(record) > best[0]:
                best = standing(record), _state(classifier) if phase.epochs > 1 else {}
            yield record
        if best is not None and best[1]:
            classifier.load_state_dict(best[1])
    finally:
        classifier.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        classifier.eval()


def standing(record: EpochRecord) -> tuple[float, float]:
    """What makes one epoch better than another: the highest validation top-1, on ties the lowest log loss."""
    assert record.val_top1 is not None
    assert record.val_loss is not None
    return record.val_top1.value, -record.val_loss


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same while a phase runs. `started` is the network's state before its first step."""

    classifier: Classifier
    rows: Mapping[str, float | None]
    train: Pixels
    choices: StepChoices
    started: dict[str, torch.Tensor]

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        groups = dict(self.classifier.groups.items())
        return make_optimizer(groups, self.rows, name=self.choices.optimizer, lr=lr, l2=self.choices.l2)


@dataclass(frozen=True)
class _Tally:
    loss: float
    right: int
    n: int
    curve: Curve


def _epoch(run: _Run, optimizer: torch.optim.Optimizer, phase: Phase, at: int) -> _Tally:
    losses: list[float] = []
    right = n = 0
    with progress.bar(f"epoch {at} of {phase.epochs}", len(run.train.readable)) as bar:
        for block in _blocks(_steps(run, optimizer, at)):
            losses += [loss for loss, _, _ in block]
            right += sum(hits for _, hits, _ in block)
            seen = sum(size for _, _, size in block)
            n += seen
            bar.advance(seen)
            if not math.isfinite(sum(losses[-BLOCK:])) or (at == 1 and len(losses) == STALL_STEPS):
                _check_learning(run, phase.lr, losses)
    return _Tally(sum(losses) / max(len(losses), 1), right, n, _curve(losses))


_Step = tuple[torch.Tensor, torch.Tensor, int]  # loss, right answers, images


def _steps(run: _Run, optimizer: torch.optim.Optimizer, at: int) -> Iterator[_Step]:
    """Step on every batch of an epoch. Dropout draws from (seed, epoch, step)."""
    choices = run.choices
    groups = dict(run.classifier.groups.items())
    weights = None
    if choices.class_weights is not None:
        weights = torch.from_numpy(choices.class_weights).float().to(choices.device)
    order = shuffled(run.train, choices.seed, at)
    for step, (pixels, labels) in enumerate(epoch(run.train, order, choices.batch_size)):
        # One image alone has no variance where the map is 1×1: it is normalised by the running statistics.
        freeze.apply_modes(groups, run.rows, choices.updates_batchnorm and len(labels) > 1)
        with torch.random.fork_rng(devices=None if choices.device == "cuda" else []):
            torch.manual_seed(np.random.SeedSequence([choices.seed, at, step]).generate_state(1, np.uint64)[0].item())
            logits = _logits(run.classifier, pixels, choices)
            labels = labels.to(choices.device, non_blocking=True)
            loss = nn.functional.cross_entropy(logits, labels, weights)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        yield loss.detach(), (logits.argmax(1) == labels).sum(), len(labels)


def _blocks(steps: Iterator[_Step]) -> Iterator[list[tuple[float, int, int]]]:
    """Steps in blocks, as numbers: a GPU is waited for once a block."""
    while block := list(islice(steps, BLOCK)):
        yield [(float(loss), int(right), n) for loss, right, n in block]


def _logits(classifier: Classifier, pixels: torch.Tensor, choices: StepChoices) -> torch.Tensor:
    with torch.autocast(choices.device, torch.bfloat16, enabled=choices.precision == "bf16"):
        logits: torch.Tensor = classifier(pixels.to(choices.device, non_blocking=True))
    return logits.float()


def validate(classifier: Classifier, val: Pixels, choices: StepChoices) -> tuple[float, int, int]:
    """Log loss in nats, right answers and images of a split. Leaves the network in evaluation mode."""
    classifier.eval()
    total, right, n = 0.0, 0, 0
    with torch.inference_mode():
        for pixels, labels in epoch(val, val.readable, max(choices.batch_size, 128)):
            labels = labels.to(choices.device)
            logits = _logits(classifier, pixels, choices)
            total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            n += len(labels)
    return total / max(n, 1), right, n


def _state(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().clone() for key, tensor in classifier.state_dict().items()}


def _curve(losses: list[float]) -> Curve:
    ends = range(BLOCK, len(losses) + 1, BLOCK)
    return tuple((end, sum(losses[end - BLOCK : end]) / BLOCK) for end in ends)


def _say_how_long(run: _Run, phase: Phase) -> None:
    """Say where it runs and about how long it will take, from a few steps of a copy."""
    choices = run.choices
    steps = phase.epochs * math.ceil(len(run.train.readable) / choices.batch_size)
    if steps <= _REHEARSAL:
        return
    twin = replace(run, classifier=copy.deepcopy(run.classifier))
    freeze.apply(dict(twin.classifier.groups.items()), run.rows)
    marks = [time.perf_counter()]
    for loss, _, _ in islice(_steps(twin, twin.optimizer(phase.lr), 1), _REHEARSAL):
        float(loss)
        marks.append(time.perf_counter())
    gaps = [after - before for before, after in pairwise(marks)]
    if not gaps:
        return
    seconds = min(gaps[1:] or gaps)  # the first warms up
    rate = choices.batch_size / seconds
    progress.note(
        f"training on {choices.device} in {choices.precision}, batches of {choices.batch_size}: {steps:,} steps, "
        f"about {rate:,.0f} images/s, {_duration(steps * seconds)}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --- Where nothing is learnt ---------------------------------------------------------------------------------------


def chance_loss(labels: NDArray[np.int64], class_weights: NDArray[np.float64] | None) -> float:
    """Log loss in nats of always answering with the classes' shares: the best that a network without eyes can do."""
    counts = np.bincount(labels).astype(np.float64)
    if class_weights is not None:
        counts *= class_weights[: len(counts)]
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _check_learning(run: _Run, lr: float, losses: list[float]) -> None:
    """Raise where the loss is no number, or is at chance while a lower rate, tried now, gets away from it."""
    last = sum(losses[-2 * BLOCK :]) / len(losses[-2 * BLOCK :])
    chance = chance_loss(run.train.labels.numpy()[run.train.readable], run.choices.class_weights)
    broken = not math.isfinite(last)
    if not broken and (run.choices.stalled == "ignore" or last < _AT_CHANCE * chance):
        return
    reached = _state(run.classifier)
    curves: dict[float, Curve] = {lr: _curve(losses)}
    found = None
    for divisor in _LOWER:
        rate = lr / divisor
        progress.note(f"after {len(losses)} steps the loss is {last:.3f}, no better than chance; trying {rate:g}")
        curves[rate] = _try_rate(run, rate, chance)
        if curves[rate] and curves[rate][-1][1] < _LEARNS * chance:
            found = rate
            break
    run.classifier.load_state_dict(reached)
    if found is not None or broken:
        raise Stalled(lr, len(losses), last, chance, found, curves)
    progress.note("a tenth and a hundredth of the learning rate do no better; going on")


def _try_rate(run: _Run, lr: float, chance: float) -> Curve:
    """The curve of another rate on the same batches from the start, until it has shown that it learns."""
    run.classifier.load_state_dict(run.started)
    losses: list[float] = []
    with progress.bar(f"trying {lr:g}", STALL_STEPS, "steps") as bar:
        for block in _blocks(_steps(run, run.optimizer(lr), 1)):
            losses += [loss for loss, _, _ in block]
            bar.advance(len(block))
            mean = sum(losses[-BLOCK:]) / len(losses[-BLOCK:])
            if len(losses) >= STALL_STEPS or mean < _LEARNS * chance or not math.isfinite(mean):
                break
    return _curve(losses)
