"""Number of threads and memory allocation of the process while it computes."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Numbers and defaults: malloc/malloc.h and mallopt(3) of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_THRESHOLD: 128 * 1024, _ARENA_MAX: 0}
_RETAIN = {_TRIM_THRESHOLD: 1 << 30, _MMAP_THRESHOLD: 1 << 30, _ARENA_MAX: 1}

ALIGNMENT = 64
"""Bytes: PyTorch allocates CPU memory at multiples of it (``gAlignment`` in
``c10/core/alignment.h``)."""


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if it is contiguous and aligned as PyTorch allocates it, else a copy that is.

    Matrix products choose their kernel, and so the order of summation, by strides and alignment. NumPy allocates at
    multiples of 16 bytes, and tensors of a mapped safetensors file begin at any multiple of 8. The product of 360 rows
    of 1,280 numbers with a head for 10 classes differed by up to 3e-5 in logits of about 35 between addresses, on AVX2
    and on AVX-512.
    """
    if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Make the C library retain freed memory, up to a gigabyte shared by all threads, inside the block.

    By default it returns the activations of a large layer to the system as soon as they are freed, and the system
    clears the same pages for the next layer: a step of EfficientNet-Lite0 with 32 photos then requests 430,000 pages,
    which takes a fifth of its time; inside the block it requests 50. This works with the GNU C library only; with
    others the block has no effect.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    _set_options(library, _RETAIN)
    try:
        yield
    finally:
        _set_options(library, _DEFAULTS)
        library.malloc_trim(0)


def _set_options(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of PyTorch threads inside the block.

    One thread suits short operations: several would wait for each other longer than they compute, and a hundred times
    longer while other processes use the cores.
    """
    before = torch.get_num_threads()
    if before == number:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
