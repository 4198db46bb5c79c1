"""GPUs: their names, whether they work, and settings other than PyTorch's defaults."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import torch


def gpu_names() -> list[str]:
    """Names of the GPUs that PyTorch sees."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


@functools.cache
def gpu_problem() -> str | None:
    """Why the GPU that PyTorch sees cannot compute; None if it can, or if there is no GPU. It is tried once.

    A build of PyTorch has kernels for some generations of GPUs only, but also lists the others.
    """
    if not torch.cuda.is_available():
        return None
    try:
        torch.zeros(1, device="cuda").add(1).item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def to_device(batch: torch.Tensor, device: str) -> torch.Tensor:
    """A batch on a device. The copy to a GPU is asynchronous, from pinned memory."""
    return batch if device == "cpu" else batch.pin_memory().to(device, non_blocking=True)


def exact_convolutions() -> AbstractContextManager[None]:
    """Make float32 convolutions on a GPU exact and deterministic inside the block.

    By default they round to 10 bits (TF32), and the choice of the kernel is not reproducible.
    """
    # Without enabled=True the block would disable cuDNN.
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
