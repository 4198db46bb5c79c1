"""Samples and an ImageSpec to batches of pixels. Files become tensors only here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import ImageError
from .records import ImageSpec, Sample
from .transforms import load_pixels

_AHEAD = 2  # batches that may be decoded before they are asked for: enough to keep threads and engine busy


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


def batches(samples: Sequence[Sample], spec: ImageSpec, *, batch_size: int, workers: int) -> Iterator[Batch]:
    """Batches in the samples' order, decoded in threads (Pillow lets go of the interpreter while it decodes).

    Args:
        samples: what to decode.
        spec: how pixels are made.
        batch_size: samples in a batch; the last one may be shorter, as may one with failures.
        workers: threads; 0 decodes in the caller's thread.
    """
    starts = range(0, len(samples), batch_size)
    if workers == 0:
        for start in starts:
            chunk = range(start, min(start + batch_size, len(samples)))
            yield _batch(chunk, [_load(samples[index], spec) for index in chunk], spec)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="topgraft-decode")
    waiting: deque[tuple[range, list[Future[NDArray[np.uint8] | str]]]] = deque()
    # A small batch must not starve the threads, a large one must not fill the memory.
    ahead = max(_AHEAD, -(-2 * workers // batch_size))
    try:
        for start in starts:
            chunk = range(start, min(start + batch_size, len(samples)))
            waiting.append((chunk, [pool.submit(_load, samples[index], spec) for index in chunk]))
            if len(waiting) > ahead:
                done, futures = waiting.popleft()
                yield _batch(done, [future.result() for future in futures], spec)
        while waiting:
            done, futures = waiting.popleft()
            yield _batch(done, [future.result() for future in futures], spec)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(sample: Sample, spec: ImageSpec) -> NDArray[np.uint8] | str:
    """Pixels, or the reason why there are none."""
    source = sample.path if sample.path is not None else sample.array
    if source is None:
        return "has neither a path nor an array"
    try:
        return load_pixels(source, spec)
    except ImageError as error:
        return str(error)


def _batch(chunk: range, results: Sequence[NDArray[np.uint8] | str], spec: ImageSpec) -> Batch:
    good = [(index, result) for index, result in zip(chunk, results, strict=True) if not isinstance(result, str)]
    failed = tuple((index, result) for index, result in zip(chunk, results, strict=True) if isinstance(result, str))
    shape = (len(good), spec.input_size, spec.input_size, 3)
    pixels = np.stack([result for _, result in good]) if good else np.empty(shape, dtype=np.uint8)
    return Batch(np.array([index for index, _ in good], dtype=np.int64), torch.from_numpy(pixels), failed)
