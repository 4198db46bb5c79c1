"""Whether a phase trains from cached activations of its frozen prefix, and making them ready."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.data.samples import Sample
from topgraft.errors import CacheError
from topgraft.features.extract import complete
from topgraft.features.frozen_base import Base
from topgraft.features.segment_file import BYTES
from topgraft.strategies.plan import shares
from topgraft.system import formatting
from topgraft.training.inputs import StoredMaterial

from .group_costs import GroupCost, above, below

_FREE = 0.5  # share of the disk's free bytes that a cache may take at most


@dataclass(frozen=True, slots=True)
class Rates:
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
class Decision:
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
    rates: Rates,
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
) -> Decision:
    """Weigh filling and reading against running the prefix anew in every epoch. Pure.

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
    return Decision(boundary, first, cached, views, needs, (with_cache, without), why, filling)


def measure_store(folder: Path) -> float:
    """Seconds for a byte that is written to a folder and read back as float32; infinite where nothing can be."""
    rows = np.zeros((8, 1 << 18), dtype=np.float32)
    began = time.perf_counter()
    path = folder / f".measure-{time.time_ns()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.from_numpy(rows).half().numpy().tofile(path)
        torch.from_numpy(np.fromfile(path, dtype=np.float16)).float()
    except OSError:
        return math.inf
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return (time.perf_counter() - began) / (rows.size * BYTES)


def fill(
    bases: Sequence[Base],
    samples: Sequence[Sample],
    labels: torch.Tensor,
    readable: NDArray[np.int64],
    train_images: int,
    in_folds: bool,
    until: float = math.inf,
) -> StoredMaterial:
    """Compute what the cache lacks: plain rows of the images that judge, augmented ones of those that train.

    Args:
        bases: of the plain images, and of each augmented view.
        samples: train, then validation.
        labels: theirs.
        readable: indices of those that can be read.
        train_images: how many samples are train.
        in_folds: all images train and judge in turn.
        until: when it has to be done, by ``time.perf_counter``.

    Raises:
        OutOfTime: it was not.
        CacheError: it cannot be kept; or a plain image cannot be read, which could be before. A view that cannot be
            made is left out of the epochs that take it, as where they are drawn anew.
    """
    plain, *views = bases
    name = plain.store.boundary
    train = [int(index) for index in readable if in_folds or index < train_images]
    judged = [int(index) for index in readable if in_folds or not views or index >= train_images]
    found = complete([samples[index] for index in judged], plain, description=f"{name}, plain", until=until)
    for at, reason in found.failed.items():
        raise CacheError(f"{samples[judged[at]].name}: {reason}, though it could be read before")
    failed = {}
    for number, base in enumerate(views):
        bar = f"{name}, view {number + 1} of {len(views)}"
        found = complete([samples[index] for index in train], base, description=bar, until=until)
        failed.update({(number, train[at]): reason for at, reason in found.failed.items()})
    digests = [sample.digest for sample in samples]
    return StoredMaterial(labels, name, digests, plain.store, tuple(base.store for base in views), failed=failed)


def free_bytes(folder: Path) -> int:
    """What the disk of a folder has left; the folder need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def trim(folder: Path, room: int, used: Sequence[Path]) -> None:
    """Remove the stores of a folder that were longest not used, until the others take no more than `room` bytes.

    Args:
        folder: ``boundaries`` in the cache.
        room: bytes.
        used: stores that are needed now, and stay.
    """
    for path in used:
        if path.is_dir():
            os.utime(path)
    stores = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    ages = sorted(((path.stat().st_mtime, path) for path in stores if path not in used), reverse=True)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for _, path in ages}
    total = 0
    for _, path in ages:
        total += sizes[path]
        if total > room:
            shutil.rmtree(path, ignore_errors=True)
