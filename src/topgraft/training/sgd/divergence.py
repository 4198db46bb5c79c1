"""Where nothing is learned, or what was known is lost: noticing it, and finding a rate that does better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from topgraft.errors import TrainingStalledError
from topgraft.system import progress

BLOCK = 25  # steps that one point of a curve averages
AT_CHANCE = 0.98  # of the loss of a network that knows the classes' shares only: above, nothing has been learned
LEARNS = 0.95  # below that share of it, a rate has shown that it learns
LOWER = (10, 100)  # what the rate is divided by when a lower one is looked for
_FIRST = 5  # steps whose mean is what the network knew: the rate is still rising
_LOST = 0.5  # share of the chance loss by which a block may be above the first steps, and the network still knows

Curve = tuple[tuple[int, float], ...]
"""Step, and the mean loss of the `BLOCK` steps that end there."""


def curve_of(losses: Sequence[float]) -> Curve:
    """The curve of a phase's losses; a last block that is not full is left out."""
    ends = range(BLOCK, len(losses) + 1, BLOCK)
    return tuple((end, sum(losses[end - BLOCK : end]) / BLOCK) for end in ends)


def chance_loss(labels: NDArray[np.int64], class_weights: NDArray[np.float64] | None) -> float:
    """Log loss in nats of always answering with the classes' shares: the best that a network without eyes can do."""
    counts = np.bincount(labels).astype(np.float64)
    if class_weights is not None:
        counts *= class_weights[: len(counts)]
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def has_diverged(losses: Sequence[float], chance: float) -> bool:
    """Whether a network that knew something when it began has lost it: the last block is far above the first steps.

    Far is also twice the standard error of the difference, as the mean of few small batches is mostly luck.
    """
    if len(losses) < BLOCK:
        return False
    last = sum(losses[-BLOCK:]) / BLOCK
    # From one step to the next, so that a rise or a fall within the block is not taken for noise.
    noise = sum((b - a) ** 2 for a, b in pairwise(losses[-BLOCK:])) / (2 * (BLOCK - 1))

    def lost(steps: int, share: float) -> bool:
        first = sum(losses[:steps]) / steps
        bound = max(share * chance, 2 * math.sqrt(noise * (1 / steps + 1 / BLOCK)))
        return first + (share - _LOST) * chance < chance and last > first + bound

    # A constant rate may spoil the second step already. The first alone, before any, is of one batch, and may be lucky.
    return lost(_FIRST, _LOST) or lost(1, 2 * _LOST)


def at_chance(losses: Sequence[float], chance: float) -> bool:
    """Whether the last two blocks are no better than chance."""
    last = losses[-2 * BLOCK :]
    return sum(last) / len(last) >= AT_CHANCE * chance


def try_lower_lrs(
    lr: float,
    losses: Sequence[float],
    chance: float,
    known: bool,
    try_rate: Callable[[float], Sequence[float]] | None,
    steps: int,
) -> TrainingStalledError | None:
    """Try lower rates where one was too high; None if they do no better and the loss is a number.

    Args:
        lr: the rate that was used.
        losses: of its steps.
        chance: see `chance_loss`.
        known: whether the network knew something when it began, so that holding on to that is enough.
        try_rate: the losses of another rate on the same batches from the start, until it has shown what it does; None
            where there is no time for that.
        steps: that were taken.
    """
    last = sum(losses[-2 * BLOCK :]) / len(losses[-2 * BLOCK :])
    curves: dict[float, Curve] = {lr: curve_of(losses)}
    found = None
    for divisor in LOWER:
        if try_rate is None:
            break
        rate = lr / divisor
        progress.note(f"after {steps} steps the loss is {last:.3f}, where chance is {chance:.3f}; trying {rate:g}")
        tried = try_rate(rate)
        curves[rate] = curve_of(tried)
        if is_learning(tried, chance, known):
            found = rate
            break
    if found is None and math.isfinite(last) and try_rate is not None:
        progress.note("no lower rate was seen to do better; continuing")
        return None
    return TrainingStalledError(lr, steps, last, chance, found, curves, known)


def is_learning(losses: Sequence[float], chance: float, known: bool) -> bool:
    """Whether a rate's steps show that it learns, or keeps what was known."""
    if len(losses) < BLOCK or not math.isfinite(sum(losses)):
        return False
    if known:
        return not has_diverged(losses, chance)
    return sum(losses[-BLOCK:]) / BLOCK < LEARNS * chance
