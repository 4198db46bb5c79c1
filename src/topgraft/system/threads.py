"""Threads and memory of the process while it computes."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Numbers and defaults: malloc/malloc.h and mallopt(3) of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_THRESHOLD: 128 * 1024, _ARENA_MAX: 0}


_KEPT = {_TRIM_THRESHOLD: 1 << 30, _MMAP_THRESHOLD: 1 << 30, _ARENA_MAX: 1}


ALIGNMENT = 64
"""Bytes: addresses that PyTorch allocates on a processor are multiples of it (``gAlignment`` in
``c10/core/alignment.h``)."""


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous and at an address that PyTorch would allocate; a copy where it is not.

    Matrix products pick their kernel, and so the order of their sums, by strides and alignment. NumPy allocates at
    multiples of 16 bytes, and tensors of a mapped safetensors file begin at any multiple of 8: the same product of 360
    rows of 1,280 numbers with a head for 10 classes, at other addresses, differed by up to 3e-5 in logits of about 35,
    on AVX2 and on AVX-512.
    """
    if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block the C library keeps memory that is freed, up to a gigabyte, and all threads share it.

    Left alone, it gives the activations of a large layer back to the system as soon as they are freed, and the system
    clears the same pages for the next layer: a step of EfficientNet-Lite0 with 32 photos asks for 430,000 pages, which
    takes a fifth of its time, and for 50 inside. Only the GNU C library can be told; elsewhere the block changes
    nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    _set(library, _KEPT)
    try:
        yield
    finally:
        _set(library, _DEFAULTS)
        library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """PyTorch computes with so many threads inside the block.

    One is right for steps that are short: threads then wait longer for each other than they compute, and where other
    work keeps the cores busy, a hundred times longer.
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
