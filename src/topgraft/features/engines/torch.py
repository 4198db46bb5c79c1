"""The PyTorch engine: the network as it is, channels last, bfloat16 where the device has it.

On a GPU the network is recorded once into a CUDA graph. A small convolution takes a GPU less time than the processor
needs to ask for it, and a graph is asked for at once. It runs the kernels that the network runs by itself, so that no
number changes, and recording takes a fraction of a second, where a compiler takes half a minute: most sets of photos
are through the network sooner than that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.loader import Batch
from topgraft.system import progress
from topgraft.system.gpu import exact_convolutions, to_device
from topgraft.system.hardware import has_bf16
from topgraft.system.threads import torch_threads

from .base import EngineChoice, EngineKind, Precision, Rows, Tolerance, by_speed, installed_version, parts

# The activations of 4 photos of 224 px stay in a processor's cache, and below the size from which the allocator
# gives memory back after every layer: EfficientNet-Lite0 runs twice as fast as with 16
# (benchmarks/engines.py --batch-sizes). A GPU wants more work for each launch.
_BATCH_SIZE = {"cpu": 4, "cuda": 64}

_WARM_UPS = 3  # as in the example of https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture


Network = Callable[[torch.Tensor], torch.Tensor]
"""uint8 N×H×W×3 to activations, on a device."""


@dataclass(frozen=True)
class TorchEngine:
    """PyTorch. See `topgraft.features.engines.base.Engine`.

    Attributes:
        choice, version: as there.
        network: on its device. On a GPU what it gives is overwritten by the next call.
    """

    choice: EngineChoice
    version: str
    network: Network

    def run(self, batches: Iterable[Batch]) -> Iterator[Rows]:
        """See `topgraft.features.engines.base.Engine.run`."""
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
        with arithmetic(self.choice):
            rows = self.network(to_device(torch.from_numpy(pixels), self.choice.device)).float()
            if not on_gpu:
                return _Started(rows.contiguous(), None)
            host = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(rows, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            return _Started(host, done)


@contextmanager
def arithmetic(choice: EngineChoice) -> Iterator[None]:
    """How the network computes inside the block."""
    # A graph records a cast of the weights as it is; one that was kept from before would not be in it.
    casts = torch.autocast(
        choice.device, torch.bfloat16, enabled=choice.precision == "bf16", cache_enabled=choice.device == "cpu"
    )
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(casts)
        if choice.device == "cuda":
            stack.enter_context(exact_convolutions())
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
    """See `topgraft.features.engines.choose.build_engine`. Nothing is kept on disk."""
    # A copy: the caller's modules keep their device and memory layout.
    network = copy.deepcopy(prefix).eval()
    moved: nn.Module = network.to(device=choice.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    runs: Network = moved
    if choice.device == "cuda":
        with arithmetic(choice):
            runs = recorded(moved, (choice.batch_size, input_size, input_size, 3))
    return TorchEngine(choice, str(installed_version("torch")), runs)


def recorded(network: Network, shape: tuple[int, ...]) -> Network:
    """The network as a CUDA graph for uint8 pixels of one shape; as it is where it cannot be recorded.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs says what cannot: what waits for the GPU, or
    depends on its numbers.
    """
    pixels = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS - 1):  # libraries choose and load their kernels, which no graph may hold
            network(pixels)
        waits = _waits(network, pixels)
    torch.cuda.current_stream().wait_stream(aside)
    if waits:
        progress.note("the network runs layer by layer: it waits for the GPU on its way, which cannot be recorded")
        return network
    graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with _spare_generator(), torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may continue it
            rows = network(pixels)
    except RuntimeError as error:
        torch.cuda.set_stream(here)  # where ending the recording fails too, its stream would stay the current one
        progress.note(f"the network runs layer by layer, as it cannot be recorded: {str(error).splitlines()[0]}")
        return network

    def replay(images: torch.Tensor, held: Network = network) -> torch.Tensor:
        # A graph has the addresses of the weights alone: `held` keeps them where they are.
        pixels.copy_(images, non_blocking=True)
        graph.replay()
        return rows

    return replay


def _waits(network: Network, pixels: torch.Tensor) -> bool:
    """Whether running the network waits for the GPU.

    Recording it would fail midway, and up to PyTorch 2.12 the allocator then believes to the end of the process that a
    recording is under way, and fails where memory is short (https://github.com/pytorch/pytorch/pull/180395).
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # "error" would also stop what other threads do
        try:
            network(pixels)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return any("called a synchronizing" in str(warning.message) for warning in said)


@contextmanager
def _spare_generator() -> Iterator[None]:
    """Inside the block the GPU's default generator has a copy of its state.

    A recording takes hold of that state, and one that fails does not release it in every version of PyTorch: code that
    draws a random number later gets an error (https://github.com/pytorch/pytorch/issues/172390).
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    own = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        yield
    finally:
        generator.graphsafe_set_state(own)


KIND = EngineKind(
    package="torch",
    devices=devices,
    precisions=precisions,
    batch_size=batch_size,
    tolerance={"fp32": Tolerance(0.9999, 0.9999, 0.005), "bf16": Tolerance(0.99, 0.999, 0.02)},
    build=build,
)
