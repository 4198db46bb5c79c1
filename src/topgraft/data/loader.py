"""Samples and an ImageSpec to batches of pixels. Files become tensors only here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.errors import ImageError
from topgraft.system.cores import usable_cores

from .augment import View, load_view
from .preprocess import load_pixels
from .samples import ImageSpec, Sample

_AHEAD = 2  # batches at least that may be decoded before they are asked for: enough to keep threads and engine busy

# Bytes of pixels that may be: while an engine is built, a core is free to decode, some 200 photos of 224 pixels.
_AHEAD_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Batch:
    """Decoded images of one stretch of the samples.

    Attributes:
        indices: int64, index into the samples of each image, ascending.
        pixels: uint8 N×H×W×3, RGB; N is the number of indices, and may be 0.
        failed: index and reason of the samples in this stretch that cannot be decoded.
    """

    indices: NDArray[np.int64]
    pixels: torch.Tensor
    failed: tuple[tuple[int, str], ...] = ()


def batches(
    samples: Sequence[Sample], spec: ImageSpec, *, batch_size: int, workers: int, view: View | None = None
) -> Iterator[Batch]:
    """Batches in the samples' order, decoded in threads (Pillow releases the GIL while decoding).

    No more than 32 MB of pixels are in memory, or three batches where those are more, or what keeps every thread
    busy. The threads end with the iterator, also where it is closed or dropped early.

    Args:
        samples: what to decode.
        spec: how pixels are made.
        batch_size: samples in a batch, at least 1; the last one may be shorter, as may one with failures.
        workers: threads; 0 decodes in the caller's thread.
        view: what is drawn at random for each image, which needs its digest; None is the spec's central crop.
    """
    chunks = (range(start, min(start + batch_size, len(samples))) for start in range(0, len(samples), batch_size))
    if workers == 0:
        for chunk in chunks:
            pixels = _room(len(chunk), spec)
            rows = pixels.numpy()
            yield _batch(chunk, pixels, [_fill(rows[k], samples[index], spec, view) for k, index in enumerate(chunk)])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="topgraft-decode")
    waiting: deque[tuple[range, torch.Tensor, list[Future[str | None]]]] = deque()
    # A small batch must not starve the threads, a large one must not fill the memory.
    ahead = max(_AHEAD, -(-2 * workers // batch_size), _AHEAD_BYTES // (batch_size * spec.input_size**2 * 3))
    try:
        for chunk in chunks:
            pixels = _room(len(chunk), spec)
            rows = pixels.numpy()
            futures = [pool.submit(_fill, rows[k], samples[index], spec, view) for k, index in enumerate(chunk)]
            waiting.append((chunk, pixels, futures))
            if len(waiting) > ahead:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _room(count: int, spec: ImageSpec) -> torch.Tensor:
    return torch.empty((count, spec.input_size, spec.input_size, 3), dtype=torch.uint8)


def _fill(row: NDArray[np.uint8], sample: Sample, spec: ImageSpec, view: View | None) -> str | None:
    """Write a sample's pixels into its row of a batch, or say why there are none."""
    source = sample.path if sample.path is not None else sample.array
    if source is None:
        return "has neither a path nor an array"
    try:
        row[:] = load_pixels(source, spec) if view is None else load_view(source, spec, view, sample.digest)
    except ImageError as error:
        return str(error)  # without the traceback, which holds the file's bytes
    return None


def _finished(chunk: range, pixels: torch.Tensor, futures: Sequence[Future[str | None]]) -> Batch:
    return _batch(chunk, pixels, [future.result() for future in futures])


def _batch(chunk: range, pixels: torch.Tensor, reasons: Sequence[str | None]) -> Batch:
    failed = tuple((index, reason) for index, reason in zip(chunk, reasons, strict=True) if reason is not None)
    kept = [k for k, reason in enumerate(reasons) if reason is None]
    if failed:
        pixels = pixels[kept]
    return Batch(np.array([chunk[k] for k in kept], dtype=np.int64), pixels, failed)


def decoding_threads(workers: int | None) -> int:
    """The setting ``workers``: one thread per usable core if None."""
    return usable_cores() if workers is None else workers
