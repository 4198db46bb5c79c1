"""Decode samples to batches of pixels, in threads. Files become tensors only here."""

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

_AHEAD = 2  # least batches decoded in advance: enough to keep threads and engine busy

# Bytes of pixels decoded in advance: while an engine is built, a core is free to decode, some 200 photos of 224 pixels.
_AHEAD_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Batch:
    """Decoded images of consecutive samples.

    Attributes:
        indices: int64, index of each image in the samples, ascending.
        pixels: uint8 N×H×W×3, RGB; N is the number of indices, and may be 0.
        failed: index and reason of the samples in this range that cannot be decoded.
    """

    indices: NDArray[np.int64]
    pixels: torch.Tensor
    failed: tuple[tuple[int, str], ...] = ()


def batches(
    samples: Sequence[Sample], spec: ImageSpec, *, batch_size: int, workers: int, view: View | None = None
) -> Iterator[Batch]:
    """Batches in the order of the samples, decoded in threads (Pillow releases the GIL while decoding).

    At most 32 MB of pixels are in memory, or three batches or enough for every thread if that is more. The threads end
    with the iterator, also if it is closed or dropped early.

    Args:
        samples: images to decode.
        spec: preprocessing.
        batch_size: samples in a batch, at least 1; the last one may be shorter, as may one with failures.
        workers: number of threads; 0 decodes in the caller's thread.
        view: random augmentation, which needs the digest of each image; None is the central crop of the spec.
    """
    chunks = (range(start, min(start + batch_size, len(samples))) for start in range(0, len(samples), batch_size))
    if workers == 0:
        for chunk in chunks:
            pixels = _empty_batch(len(chunk), spec)
            rows = pixels.numpy()
            yield _batch(chunk, pixels, [_fill(rows[k], samples[index], spec, view) for k, index in enumerate(chunk)])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="topgraft-decode")
    pending: deque[tuple[range, torch.Tensor, list[Future[str | None]]]] = deque()
    # A small batch must not starve the threads, a large one must not fill the memory.
    ahead = max(_AHEAD, -(-2 * workers // batch_size), _AHEAD_BYTES // (batch_size * spec.input_size**2 * 3))
    try:
        for chunk in chunks:
            pixels = _empty_batch(len(chunk), spec)
            rows = pixels.numpy()
            futures = [pool.submit(_fill, rows[k], samples[index], spec, view) for k, index in enumerate(chunk)]
            pending.append((chunk, pixels, futures))
            if len(pending) > ahead:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _empty_batch(count: int, spec: ImageSpec) -> torch.Tensor:
    return torch.empty((count, spec.input_size, spec.input_size, 3), dtype=torch.uint8)


def _fill(row: NDArray[np.uint8], sample: Sample, spec: ImageSpec, view: View | None) -> str | None:
    """Write the pixels of a sample into its row of a batch, or return why it cannot be decoded."""
    source = sample.path if sample.path is not None else sample.array
    if source is None:
        return "has neither a path nor an array"
    try:
        row[:] = load_pixels(source, spec) if view is None else load_view(source, spec, view, sample.digest)
    except ImageError as error:
        return str(error)  # without the traceback, which references the bytes of the file
    return None


def _finished(chunk: range, pixels: torch.Tensor, futures: Sequence[Future[str | None]]) -> Batch:
    return _batch(chunk, pixels, [future.result() for future in futures])


def _batch(chunk: range, pixels: torch.Tensor, reasons: Sequence[str | None]) -> Batch:
    failed = tuple((index, reason) for index, reason in zip(chunk, reasons, strict=True) if reason is not None)
    decoded = [k for k, reason in enumerate(reasons) if reason is None]
    if failed:
        pixels = pixels[decoded]
    return Batch(np.array([chunk[k] for k in decoded], dtype=np.int64), pixels, failed)


def decoding_threads(workers: int | None) -> int:
    """The number of decoding threads: `workers`, or one per usable core if it is None."""
    return usable_cores() if workers is None else workers
