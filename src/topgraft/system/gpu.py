"""What a GPU needs besides PyTorch's defaults."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import torch


def gpu_names() -> list[str]:
    """What their maker calls the GPUs that PyTorch sees."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


@functools.cache
def gpu_problem() -> str | None:
    """Why the GPU that PyTorch sees computes nothing; None where it does, or there is none. It is tried once.

    A build of PyTorch has kernels for some generations of GPUs, and sees the others as well.
    """
    if not torch.cuda.is_available():
        return None
    try:
        torch.zeros(1, device="cuda").add(1).item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def to_device(batch: torch.Tensor, device: str) -> torch.Tensor:
    """A batch on a device. A GPU fetches it while the caller continues: from memory that stays in its place."""
    return batch if device == "cpu" else batch.pin_memory().to(device, non_blocking=True)


def exact_convolutions() -> AbstractContextManager[None]:
    """Inside the block a GPU's convolutions are float32 where they say so, and the same each time.

    Left alone they round to 10 bits (TF32), and a faster kernel may be picked at random.
    """
    # Without enabled=True the block would switch cuDNN off.
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
