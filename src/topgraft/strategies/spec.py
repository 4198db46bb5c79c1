"""What a strategy is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..plan import Phase
from ..records import EpochRecord


@dataclass(frozen=True, slots=True)
class Facts:
    """What a strategy may know.

    Attributes:
        train_images, val_images: how many there are.
        classes: how many there are.
        epochs: passes over the training images in phases that step, as asked or by default.
        lr: learning rate of such phases, as asked or by default.
    """

    train_images: int
    val_images: int
    classes: int
    epochs: int = 1
    lr: float = 1e-3


Strategy = Callable[[Sequence[str], Facts, Sequence[EpochRecord]], Phase | None]
"""``strategy(groups, facts, history)``: the next phase, or None when done. Pure: same arguments, same answer."""
