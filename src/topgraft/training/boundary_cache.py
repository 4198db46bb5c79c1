"""Fill the cache of boundary activations, and keep it within its quota."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.data.samples import Sample
from topgraft.errors import CacheError
from topgraft.features.extract import complete
from topgraft.features.frozen_base import Base
from topgraft.features.segment_file import BYTES

from .inputs import CachedActivations


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
) -> CachedActivations:
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
        OutOfTimeError: it was not.
        CacheError: it cannot be kept; or a plain image cannot be read, which could be before. A view that cannot be
            made is left out of the epochs that take it, as where they are drawn again.
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
    return CachedActivations(labels, name, digests, plain.store, tuple(base.store for base in views), failed=failed)


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
