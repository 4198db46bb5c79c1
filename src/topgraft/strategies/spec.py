"""What a strategy is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..plan import Phase
from ..records import EpochRecord


@dataclass(frozen=True, slots=True)
class Facts:
    """What a strategy may know: images in train and validation, and the number of classes."""

    train_images: int
    val_images: int
    classes: int


Strategy = Callable[[Sequence[str], Facts, Sequence[EpochRecord]], Phase | None]
"""``strategy(groups, facts, history)``: the next phase, or None when done. Pure: same arguments, same answer."""
