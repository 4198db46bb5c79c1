"""The PyTorch engine: the network as it is, channels last, bfloat16 where the processor has it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..dataset import Batch
from ..processor import has_bf16
from ..threads import torch_threads
from .spec import EngineChoice, EngineKind, Precision, Rows, Tolerance, by_speed, installed_version, parts

# The activations of 4 photos of 224 px stay in a processor's cache, and below the size from which the allocator
# gives memory back after every layer: EfficientNet-Lite0 runs twice as fast as with 16
# (benchmarks/engines.py --batch-sizes). A GPU wants more work for each launch.
_BATCH_SIZE = {"cpu": 4, "cuda": 64}


@dataclass(frozen=True)
class TorchEngine:
    """Eager PyTorch. See `topgraft.engines.spec.Engine`."""

    choice: EngineChoice
    version: str
    network: nn.Module

    def run(self, batches: Iterable[Batch]) -> Iterator[Rows]:
        """See `topgraft.engines.spec.Engine.run`."""
        ahead: tuple[NDArray[np.int64], list[_Started]] | None = None
        for batch in batches:
            started = [self._start(part) for _, part in parts(batch, self.choice.batch_size)]
            # A GPU works on while the batch before is fetched from it; on a processor nothing is ahead.
            if ahead is not None:
                yield from _finished(*ahead)
            ahead = batch.indices, started
        if ahead is not None:
            yield from _finished(*ahead)

    def _start(self, pixels: NDArray[np.uint8]) -> _Started:
        on_gpu = self.choice.device == "cuda"
        with self._arithmetic():
            images = torch.from_numpy(pixels)
            if on_gpu:
                images = images.pin_memory().to("cuda", non_blocking=True)
            rows = self.network(images).float()
            if not on_gpu:
                return _Started(rows.contiguous(), None)
            host = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(rows, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            return _Started(host, done)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        choice = self.choice
        casts = torch.autocast(choice.device, torch.bfloat16, enabled=choice.precision == "bf16")
        # Left alone, a GPU's fp32 convolutions round to 10 bits (TF32), and a faster kernel may be picked at random.
        exact: AbstractContextManager[object] = nullcontext()
        if choice.device == "cuda":
            exact = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(casts)
            stack.enter_context(exact)
            stack.enter_context(torch_threads(choice.threads))
            yield


@dataclass(frozen=True)
class _Started:
    rows: torch.Tensor
    done: torch.cuda.Event | None


def _finished(indices: NDArray[np.int64], started: list[_Started]) -> Iterator[Rows]:
    if len(indices) == 0:
        return
    for part in started:
        if part.done is not None:
            part.done.synchronize()
    yield indices, np.concatenate([part.rows.numpy() for part in started])[: len(indices)]


def devices() -> tuple[str, ...]:
    """``cuda`` first where PyTorch sees a GPU."""
    return ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)


def precisions(device: str) -> tuple[Precision, ...]:
    """``bf16`` where the device has it, a GPU from Ampere (8.0) on; first where it pays."""
    if device == "cuda":
        return ("bf16", "fp32") if torch.cuda.get_device_capability() >= (8, 0) else ("fp32",)
    if not _processor_has_bf16():
        return ("fp32",)
    return by_speed()


def _processor_has_bf16() -> bool:
    # Without oneDNN, PyTorch's own bfloat16 convolutions are slower than its float32 ones.
    return has_bf16() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def batch_size(device: str) -> int:
    """Images at a time."""
    return _BATCH_SIZE[device]


def build(choice: EngineChoice, prefix: nn.Module, input_size: int, key: str, folder: Path) -> TorchEngine:
    """See `topgraft.engines.build_engine`. Nothing is kept on disk."""
    # A copy: the caller's modules keep their device and memory layout.
    network = copy.deepcopy(prefix).eval()
    moved = network.to(device=choice.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchEngine(choice, str(installed_version("torch")), moved)


KIND = EngineKind(
    package="torch",
    devices=devices,
    precisions=precisions,
    batch_size=batch_size,
    tolerance={"fp32": Tolerance(0.9999, 0.9999, 0.005), "bf16": Tolerance(0.99, 0.999, 0.02)},
    build=build,
)
