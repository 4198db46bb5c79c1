"""Warn of a learning rate that is too high: before the first step, and after the first epoch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from topgraft.strategies.defaults import FAR_ABOVE, learning_rate
from topgraft.strategies.history import EpochRecord, standing
from topgraft.system.formatting import share

from .divergence import LOWER, chance_loss
from .step import StepChoices

_FAR = 2.0  # times the chance loss: above it the answers are worse than none, however few steps have been taken
_FEWEST = 6  # images lost of which McNemar's exact test can tell that it was not luck: 2/2⁶ < 0.05


def far_above(rates: Iterable[float], optimizer: str, pretrained: bool) -> list[str]:
    """What a user should know before the first step at rates that are far above the default; nothing of others.

    Args:
        rates: that phases will have.
        optimizer: see `topgraft.settings.verbs.FitSettings`.
        pretrained: whether the weights are published ones.
    """
    default = learning_rate(optimizer, pretrained)
    does = "loses what the network knows" if pretrained else "learns nothing"
    return [
        f"the learning rate {rate:g} is {rate / default:,.0f} times the default, {default:g}: more than {FAR_ABOVE} "
        f"times usually {does}. Leave --lr out, or let --find-lr measure a rate"
        for rate in sorted(set(rates))
        if rate > FAR_ABOVE * default * (1 + 1e-9)  # not for rounding
    ]


def too_high(
    entry: EpochRecord,
    train_labels: NDArray[np.int64],
    judging_labels: NDArray[np.int64],
    before: int | None,
    choices: StepChoices,
) -> str | None:
    """What a user should know after the first epoch at a rate that is too high, however few steps it had; None else.

    It is too high where the loss is twice that of chance, or where more than half of what was right beyond the largest
    class is lost: on ants and bees the default costs 8 of 153 images after one epoch, which later ones bring back.

    Args:
        entry: of the epoch, with the loss alone, without the penalty on weights, in its training loss.
        train_labels, judging_labels: of the images that train and that judge.
        before: images that judge that were right when the phase began; None where the network knew nothing.
        choices: how the phase steps.
    """
    loss, lr, n = entry.train_loss, entry.lr, len(judging_labels)
    if loss is None or lr is None or choices.stalled == "ignore":
        return None
    chance = chance_loss(train_labels, choices.class_weights)
    found = [f"the loss is {loss:.3g}, where chance is {chance:.3f}"] if not loss <= _FAR * chance else []
    right, largest = int(standing(entry)[0]), int(np.bincount(judging_labels).max(initial=0))
    if before is not None and before - right >= _FEWEST and before > largest and 2 * right < before + largest:
        found.append(f"{share(right / n)} of {n:,} images are right, where {share(before / n)} were before")
    if not found:
        return None
    default = learning_rate(choices.optimizer, choices.pretrained)
    lower = f"--lr {default:g}, the default" if lr > default else f"--lr {lr / LOWER[0]:.2g}, a tenth of it"
    return (
        f"after epoch {entry.epoch} of {entry.name} {', and '.join(found)}: the learning rate {lr:g} is too high. "
        f"Use {lower}, or let --find-lr measure a rate"
    )
