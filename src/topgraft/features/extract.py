"""Compute features: read what the cache holds, run the frozen prefix for the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from topgraft.data.loader import Batch, batches
from topgraft.data.samples import Sample, Unreadable
from topgraft.data.split_checks import refuse_unreadable
from topgraft.errors import OutOfTimeError
from topgraft.system import progress

from .frozen_base import Base

_SEGMENT = 2048  # rows written at a time: a kill loses at most the seconds that these took


_SEGMENT_BYTES = 128 << 20  # of float32 rows that are held until they are written


@dataclass(frozen=True)
class Completed:
    """Which samples have rows in a store.

    Attributes:
        kept: indices of the samples that have one, ascending.
        failed: index into the samples → why it could not be decoded.
        decoded: images that ran through the base now; the others were there.
        seconds: wall seconds of decoding and base together, 0 where nothing ran.
    """

    kept: NDArray[np.int64]
    failed: Mapping[int, str]
    decoded: int
    seconds: float


@dataclass(frozen=True)
class FeatureRows:
    """Activations of the samples that could be read.

    Attributes:
        kept: index into the samples of each row, ascending.
        rows: float32, len(kept) × the boundary's shape.
        unreadable: the samples that could not be decoded, and why.
        decoded, seconds: see `Completed`.
    """

    kept: NDArray[np.int64]
    rows: NDArray[np.float32]
    unreadable: tuple[Unreadable, ...]
    decoded: int
    seconds: float


def compute(
    samples: Sequence[Sample],
    base: Base,
    *,
    strict: bool,
    description: str,
    until: float = math.inf,
    late: Callable[[str], None] | None = None,
) -> FeatureRows:
    """Rows for samples: missing ones are decoded and run through the engine, then all are read back.

    What was computed is read back from the store too, so that a first and a second run see equal rows.

    Args:
        samples: with their digests.
        base: see `open_base`.
        strict: raise where an image cannot be decoded.
        description: what the progress bar says.
        until, late: see `complete`.

    Raises:
        DataError: under `strict`, the unreadable images.
        OutOfTimeError: see `complete`.
    """
    found = complete(samples, base, description=description, until=until, late=late)
    unreadable = tuple(Unreadable(samples[at].name, reason) for at, reason in found.failed.items())
    if strict:
        refuse_unreadable(unreadable)
    rows = base.store.gather([samples[at].digest for at in found.kept])
    return FeatureRows(found.kept, rows, unreadable, found.decoded, found.seconds)


def complete(
    samples: Sequence[Sample],
    base: Base,
    *,
    description: str,
    until: float = math.inf,
    late: Callable[[str], None] | None = None,
) -> Completed:
    """Decode what the store has no row of, and run it through the engine. No more than a segment's rows are held.

    Args:
        samples: with their digests.
        base: see `open_base`.
        description: what the progress bar says.
        until: when it has to be done, by ``time.perf_counter``.
        late: is told once if it is not done until then, and the rest is computed all the same; without it that is an
            error.

    Raises:
        OutOfTimeError: it was not done `until` then; what was done by then is kept.
    """
    digests = [sample.digest for sample in samples]
    missing = set(base.store.missing(digests))
    # One of each content: a duplicate is decoded once.
    first = {sample.digest: sample for sample in reversed(samples) if sample.digest in missing}
    todo = [sample for sample in samples if first.get(sample.digest) is sample]
    by_name: dict[str, str] = {}
    began = time.perf_counter()
    if todo:
        with progress.bar(description, len(todo)) as bar:
            results = _results(todo, base, by_name, bar)
            while block := _block(results, bar, _rows_at_a_time(base), until):
                chosen = [int(index) for indices, _ in block for index in indices]
                base.store.append(
                    [todo[index].digest for index in chosen],
                    np.concatenate([rows for _, rows in block]),
                    [todo[index].name for index in chosen],
                )
                if time.perf_counter() > until and bar.done < len(todo):
                    message = f"{description}: the time is up after {bar.done:,} of {len(todo):,} images"
                    if late is None:
                        raise OutOfTimeError(message)
                    late(message)
                    until = math.inf
    seconds = time.perf_counter() - began if todo else 0.0
    failed = {sample.digest: by_name[sample.name] for sample in todo if sample.name in by_name}
    kept = np.array([i for i, digest in enumerate(digests) if digest not in failed], dtype=np.int64)
    reasons = {i: failed[digest] for i, digest in enumerate(digests) if digest in failed}
    return Completed(kept, reasons, len(todo) - len(failed), seconds)


def run(samples: Sequence[Sample], base: Base, *, description: str) -> FeatureRows:
    """Rows for samples without the cache: for images that will hardly be asked for again."""
    failed: dict[str, str] = {}
    began = time.perf_counter()
    blocks: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    with progress.bar(description, len(samples)) as bar:
        results = _results(samples, base, failed, bar)
        while block := _block(results, bar, _rows_at_a_time(base)):
            blocks += block
    unreadable = tuple(Unreadable(s.name, failed[s.name]) for s in samples if s.name in failed)
    if not blocks:
        rows = np.empty((0, *base.store.shape), dtype=np.float32)
        return FeatureRows(np.empty(0, dtype=np.int64), rows, unreadable, 0, time.perf_counter() - began)
    indices = np.concatenate([i for i, _ in blocks])
    order = np.argsort(indices)
    rows = np.concatenate([r for _, r in blocks])[order]
    return FeatureRows(indices[order], rows, unreadable, len(rows), time.perf_counter() - began)


def _results(
    todo: Sequence[Sample], base: Base, failed: dict[str, str], bar: progress.Bar
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Decode and run; what cannot be decoded goes into `failed`, by name."""

    def noting(source: Iterator[Batch]) -> Iterator[Batch]:
        for batch in source:
            for index, reason in batch.failed:
                failed[todo[index].name] = reason
                bar.advance()
            yield batch

    decoded = noting(batches(todo, base.spec, batch_size=base.batch_size, workers=base.workers, view=base.view))
    # The engine is built during the decoding of the next batches, and not at all where nothing can be decoded.
    first = next((batch for batch in decoded if len(batch.indices)), None)
    return iter(()) if first is None else base.build().run(chain([first], decoded))


def _rows_at_a_time(base: Base) -> int:
    return max(1, min(_SEGMENT, _SEGMENT_BYTES // (4 * math.prod(base.store.shape))))


def _block(
    results: Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]],
    bar: progress.Bar,
    most: int,
    until: float = math.inf,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    block, size = [], 0
    for indices, rows in islice(results, most):
        block.append((indices, rows))
        bar.advance(len(indices))
        size += len(indices)
        if size >= most or time.perf_counter() > until:
            break
    return block
