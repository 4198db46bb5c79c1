"""Whether a phase trains from cached activations of its frozen prefix, and making them ready."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from topgraft.features.segment_file import BYTES
from topgraft.strategies.plan import shares
from topgraft.system import formatting

from .group_costs import GroupCost, above, below

_FREE = 0.5  # share of the disk's free bytes that a cache may take at most


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds for one image, measured in this run.

    Attributes:
        costs: of every group, in PyTorch.
        engine: of the whole base on the engine, decoding included; None where nothing ran on it.
        decode: of decoding and cropping.
        store: of a byte that is written once and read back; infinite where nothing can be written.
    """

    costs: Mapping[str, GroupCost]
    engine: float | None
    decode: float
    store: float

    def size(self, boundary: str) -> int:
        """Bytes of the activations after a group."""
        return self.costs[boundary].numbers * BYTES

    def reading(self, boundary: str) -> float:
        """Of the activations after a group, from the cache; 0 where there can be none."""
        return self.size(boundary) * self.store if math.isfinite(self.store) else 0.0

    def prefix(self, first: str) -> float:
        """Of the groups before `first` on the engine, decoding included."""
        ours = below(self.costs, first)
        base = sum(cost.forward for name, cost in self.costs.items() if name != "head")
        if self.engine is None:
            return ours + self.decode
        return max(self.engine * ours / max(base, 1e-12), self.decode)


@dataclass(frozen=True, slots=True)
class CacheDecision:
    """Whether to cache at a boundary, and why.

    Attributes:
        boundary: the last frozen group.
        first: the first group that trains.
        cached: the decision.
        views: augmented views of each image that are kept.
        needs: bytes on disk.
        seconds: predicted of the phase with the cache, filling included, and without.
        why: in words.
        filling: predicted seconds of filling it.
    """

    boundary: str
    first: str
    cached: bool
    views: int
    needs: int
    seconds: tuple[float, float]
    why: str
    filling: float = 0.0


def decide(
    rates: Timings,
    groups: Sequence[str],
    first: str,
    *,
    train: int,
    val: int,
    epochs: int,
    views: int,
    folds: int = 0,
    quota: int,
    free: int,
    asked: str,
) -> CacheDecision:
    """Weigh filling and reading against running the prefix again in every epoch. Pure.

    Args:
        rates: of this machine.
        groups: the network's.
        first: the first group that trains; not the very first.
        train, val: images.
        epochs: of the phase.
        views: augmented views of each image, 0 for plain images only.
        folds: in how many folds the phase is tried; 0 if it is not.
        quota, free: bytes that the cache may take, and that the disk has.
        asked: ``auto``, ``on`` or ``off``.
    """
    boundary = groups[groups.index(first) - 1]
    size = rates.size(boundary)
    passes = max(folds, 1)
    kept = max(1, views) * train + val
    if folds:  # every image trains and judges in turn
        kept = (views + 1) * (train + val)
        train, val = shares(train, val, folds)
    needs = kept * size
    trained, judged = above(rates.costs, first)
    common = passes * epochs * (train * trained + val * judged)
    reading = rates.reading(boundary)
    filling = kept * (rates.prefix(first) + reading)
    with_cache = filling + passes * epochs * (train + val) * reading + common
    each = below(rates.costs, first) + rates.decode
    without = passes * epochs * (train + val) * each + common
    room = min(quota, int(_FREE * free))
    if asked == "off":
        cached, why = False, "asked for"
    elif not math.isfinite(rates.store):
        cached, why = False, "nothing can be written there"
    elif needs > room:
        cached, why = False, f"it would take {needs / 1e9:.1f} GB, and {room / 1e9:.1f} GB may be used"
    elif asked == "on":
        cached, why = True, "asked for"
    else:
        cached = with_cache < without
        why = (
            f"about {formatting.duration(with_cache)} with it, {formatting.duration(without)} without, "
            f"{needs / 1e9:.2f} GB on disk"
        )
    return CacheDecision(boundary, first, cached, views, needs, (with_cache, without), why, filling)
